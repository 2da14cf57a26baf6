"""Adds words to a tokenizer without changing what its ids mean: whole words that it cuts into several tokens."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from manta.data.cleaning.words import is_unspaced, words
from manta.data.tokenizers.unigram import SPACE
from manta.errors import InputError


def extend(tokenizer_json: str, new: Sequence[str], special_tokens: Sequence[str]) -> str:
    """The tokenizer.json with new words and special tokens behind the last id. All other ids keep their tokens.

    In scripts with spaces a word is added as it stands within a text, after a space. Of BPE a word that was cut in more
    than two brings the tokens between: merging goes in pairs; and in a row of words without spaces a word is found
    only where the merges that were there before leave its ends alone. Raises InputError for a word that no single token can
    stand for, since the tokenizer cuts it before its model sees it.
    """
    model = _Model(tokenizer_json)
    for word in new:
        spelt = model.spell(word)
        if spelt is None or not model.add(spelt):
            raise InputError(f"tokenizer.extend: {word!r} cannot be one token: this tokenizer splits it: leave it out")
    for token in special_tokens:
        model.add_special(token)
    return json.dumps(model.described, ensure_ascii=False, indent=2)


def useful(tokenizer_json: str, texts: Iterable[str], count: int) -> list[str]:
    """The `count` words that would save most tokens of these texts, best first; fewer where they hold fewer.

    A word saves, each time it occurs, its tokens but one; of a word that is unknown its letters count as tokens.
    """
    model = _Model(tokenizer_json)
    seen: Counter[str] = Counter()
    for text in texts:
        seen.update(words(text))
    saved: Counter[str] = Counter()
    named: dict[str, str] = {}
    for word, times in seen.items():
        spelt = model.spell(word) if times > 1 and len(word) > 1 else None
        if spelt is None or not model.may_add(spelt):
            continue
        pieces = model.pieces(spelt)
        cost = len(pieces) if "".join(pieces) == spelt else max(len(pieces), len(spelt))
        saved[spelt] += times * (cost - 1)
        named[spelt] = min(word, named.get(spelt, word))  # of words that a normaliser makes one
    best = sorted((spelt for spelt in saved if saved[spelt]), key=lambda spelt: (-saved[spelt], spelt))
    return [named[spelt] for spelt in best[:count]]


class _Model:
    """A tokenizer.json that is being extended, and the tokenizer as it was."""

    def __init__(self, tokenizer_json: str):
        from tokenizers import Tokenizer

        self.backend = Tokenizer.from_str(tokenizer_json)
        self.described: dict[str, Any] = json.loads(tokenizer_json)
        self.kind = self.described["model"].get("type")
        self.vocab: Any = self.described["model"]["vocab"]
        if self.kind not in ("BPE", "WordPiece", "Unigram"):
            raise InputError(
                f"tokenizer.extend: a tokenizer of type {self.kind} cannot be extended: choose another source"
            )
        known = self.backend.get_vocab(with_added_tokens=True)
        self.next_id = max(known.values()) + 1
        self.merges: dict[tuple[str, str], int] = {}  # the new ones, in order
        if self.kind == "Unigram":
            self.known = {piece for piece, _ in self.vocab}
            self.scores: dict[str, float] = dict(self.vocab)
        else:
            # Tokens outside the model are numbered behind it when a file is read: inside, they keep their number.
            for token in self.described["added_tokens"]:
                self.vocab.setdefault(token["content"], token["id"])
            self.known = set(self.vocab)

    def spell(self, word: str) -> str | None:
        """How the model sees the word within a text, None where it never sees it whole."""
        unspaced = is_unspaced(word)
        text = word if unspaced else f" {word}"
        if self.backend.normalizer is not None:
            text = self.backend.normalizer.normalize_str(text)
        cut = [text]
        if self.backend.pre_tokenizer is not None:
            cut = [piece for piece, _ in self.backend.pre_tokenizer.pre_tokenize_str(text)]
        if len(cut) != 1 or not cut[0].strip():
            return None
        if cut[0].startswith(SPACE):  # SentencePiece also puts one before the first word of a text
            return ("" if unspaced else SPACE) + cut[0].lstrip(SPACE)
        return cut[0]

    def pieces(self, spelt: str) -> list[str]:
        """What the model cuts it into, the merges that were added since included."""
        pieces = [token.value for token in self.backend.model.tokenize(spelt)]
        while pairs := [pair for pair in pairwise(pieces) if pair in self.merges]:
            first = min(pairs, key=self.merges.__getitem__)
            pieces = list(_merged(pieces, first))
        return pieces

    def may_add(self, spelt: str) -> bool:
        """Whether it is new and can be made: BPE needs all its letters."""
        return spelt not in self.known and (self.kind != "BPE" or "".join(self.pieces(spelt)) == spelt)

    def add(self, spelt: str) -> bool:
        """Make it one token. False where that cannot be."""
        pieces = self.pieces(spelt)
        if pieces == [spelt]:
            return True
        if self.kind == "BPE":
            if "".join(pieces) != spelt:
                return False
            self._merge(pieces)
        elif self.kind == "Unigram":
            self._refuse_tokens_behind()
            # As likely as its rarest part: more than all parts together, so that it is chosen before them.
            lowest = min(self.scores.values())
            self.vocab.append([spelt, min(self.scores.get(piece, lowest) for piece in pieces)])
            self.known.add(spelt)
            self.next_id += 1
        else:
            self._number(spelt)
        return True

    def _number(self, token: str) -> None:
        if token not in self.known:
            self.vocab[token] = self.next_id
            self.known.add(token)
            self.next_id += 1

    def _merge(self, pieces: list[str]) -> None:
        """Merge the pieces from the left, by merges behind all others: they change nothing that was merged before."""
        listed = self.described["model"]["merges"]
        as_text = bool(listed) and isinstance(listed[0], str)
        left = pieces[0]
        for right in pieces[1:]:
            self.merges[left, right] = len(self.merges)
            listed.append(f"{left} {right}" if as_text else [left, right])
            left += right
            self._number(left)

    def _refuse_tokens_behind(self) -> None:
        if any(token["id"] >= len(self.vocab) for token in self.described["added_tokens"]):
            raise InputError(
                "tokenizer.extend: tokens stand behind this unigram vocabulary, and would be numbered anew: choose another source"
            )

    def add_special(self, token: str) -> None:
        """Add a special token, unless there is one of that name."""
        if any(known["content"] == token for known in self.described["added_tokens"]):
            return
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        number = self.next_id
        if self.kind == "Unigram":  # within the model a document could spell it
            self.next_id += 1
        else:
            self._number(token)
            number = self.vocab[token]
        self.described["added_tokens"].append({"id": number, "content": token, **plain})


def _merged(pieces: Sequence[str], pair: tuple[str, str]) -> Iterator[str]:
    place = 0
    while place < len(pieces):
        found = tuple(pieces[place : place + 2]) == pair
        yield "".join(pair) if found else pieces[place]
        place += 2 if found else 1
