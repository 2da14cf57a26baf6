"""What may stand in a word's place: words beside it in a model's embedding table, or the synonyms of a dictionary."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from manta.data.augment import synonyms
from manta.data.augment.dictionary import Dictionary
from manta.data.augment.wordnet import GRAMMAR
from manta.data.cleaning.words import UNSPACED
from manta.errors import InputError
from manta.evaluate.robustness.attack import StandIns

LEAST = 3  # letters of a word that may be replaced; of scripts without spaces 1


def of_dictionary(known: Dictionary, most: int) -> StandIns:
    """The first `most` synonyms that fit where the word stands."""

    def find(words: Sequence[str], place: int) -> Sequence[str]:
        return synonyms.fitting(known, list(words), place)[:most]

    return find


def of_embeddings(model: Any, tokenizer: Any, most: int) -> StandIns:
    """The `most` words of the vocabulary nearest to a word, by the cosine of their rows in the table of input embeddings.

    A word of several pieces is the mean of their rows. Words of grammar, numbers and words of one or two letters are
    neither replaced nor put in; a stand-in is written with the capitals of the word. Neighbours of a table are words of
    like use, opposites among them: what is right for a text may change with them. Raises InputError where the
    vocabulary holds no whole words.
    """
    import numpy as np

    table = model.get_input_embeddings().weight.detach().float().cpu().numpy()  # (vocabulary, hidden)
    names, rows = whole_words(tokenizer)
    if len(names) < 2:
        raise InputError(
            f"evaluate.robustness.attack.words = 'neighbours': the vocabulary of {tokenizer.name_or_path} holds no whole words, as "
            "one of bytes does not: set evaluate.robustness.attack.words=synonyms"
        )
    vectors = _unit(table[rows])

    @functools.lru_cache(maxsize=4096)
    def near(word: str) -> tuple[str, ...]:
        pieces = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        likeness = vectors @ _unit(table[pieces].mean(0, keepdims=True))[0]
        found: dict[str, None] = {}
        for place in np.argsort(-likeness, kind="stable").tolist():
            if names[place].casefold() != word.casefold():
                found.setdefault(as_written(names[place], word))
            if len(found) == most:
                break
        return tuple(found)

    return lambda words, place: near(words[place]) if replaceable(words[place]) else ()


def whole_words(tokenizer: Any) -> tuple[list[str], list[int]]:
    """The words that are one piece of a vocabulary where they stand in a text, and these pieces, by number."""
    number = len(tokenizer)
    texts = [text.strip() for text in tokenizer.batch_decode([[piece] for piece in range(number)])]
    words = sorted({text for text in texts if replaceable(text)})
    if not words:
        return [], []
    encoded = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    found = sorted((pieces[0], word) for pieces, word in zip(encoded, words, strict=True) if len(pieces) == 1)
    return [word for _, word in found], [piece for piece, _ in found]


def replaceable(word: str) -> bool:
    """Whether a word is of letters alone, long enough, and no word of grammar (of English)."""
    if UNSPACED.match(word):
        return word.isalpha()
    return len(word) >= LEAST and word.isalpha() and word.lower() not in GRAMMAR


def as_written(word: str, like: str) -> str:
    """A word in the capitals of another: all, the first, or its own."""
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def _unit(rows: Any) -> Any:
    import numpy as np

    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
