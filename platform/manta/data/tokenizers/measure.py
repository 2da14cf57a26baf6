"""How well a tokenizer fits texts it was not trained on: tokens for a word, characters it knows, by language and source."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

from manta.data.cleaning.words import words
from manta.data.tokenizers.unigram import SPACE

UNDETERMINED = "und"  # ISO 639-2: a text of which nobody has told the language
AT_ONCE = 256  # texts that are encoded together


@dataclass
class Counts:
    """What is counted of texts; every figure of the report is a ratio of two of these."""

    texts: int = 0
    chars: int = 0
    words: int = 0
    tokens: int = 0
    unknown: int = 0  # tokens
    solid: int = 0  # characters other than white space
    covered: int = 0  # of these, those that stand within one known token

    def add(self, other: Counts) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def figures(self) -> dict[str, float]:
        """Ratios of nothing to nothing are 0."""
        return {
            "texts": self.texts,
            "chars": self.chars,
            "words": self.words,
            "tokens": self.tokens,
            "fertility": round(self.tokens / max(1, self.words), 4),
            "chars_per_token": round(self.chars / max(1, self.tokens), 4),
            "coverage": round(self.covered / max(1, self.solid), 6),
            "unknown_rate": round(self.unknown / max(1, self.tokens), 6),
        }


def report(
    tokenizer_json: str, texts: Iterable[str], languages: Iterable[str], sources: Iterable[str]
) -> dict[str, Any]:
    """Figures of all texts, of each language ("" counts as `und`) and of each source, which come one for each text.

    fertility: tokens for a word (Rust et al., arXiv:2012.15613), words as `cleaning.words` finds them;
    chars_per_token; coverage: share of the characters other than white space that stand within one known token: neither unknown
    nor spelt in bytes; unknown_rate: share of the tokens that are the unknown one. No special tokens are added.
    The texts should not be among those that the tokenizer was trained on. {"all": figures, "languages": {...}, "sources": {...}}
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    unknown = _unknown(json.loads(tokenizer_json)["model"])
    total, by_language, by_source = Counts(), dict[str, Counts](), dict[str, Counts]()
    for batch in _batches(zip(texts, languages, sources, strict=True)):
        encoded = tokenizer.encode_batch([text for text, _, _ in batch], add_special_tokens=False)
        for (text, language, source), one in zip(batch, encoded, strict=True):
            counts = _count(text, language, one.tokens, one.offsets, unknown)
            total.add(counts)
            by_language.setdefault(language or UNDETERMINED, Counts()).add(counts)
            by_source.setdefault(source, Counts()).add(counts)
    return {
        "all": total.figures(),
        "languages": {name: by_language[name].figures() for name in sorted(by_language)},
        "sources": {name: by_source[name].figures() for name in sorted(by_source)},
    }


def _unknown(model: dict[str, Any]) -> str | None:
    """The token that stands for what the model does not know."""
    if model.get("type") == "Unigram":
        return None if model.get("unk_id") is None else str(model["vocab"][model["unk_id"]][0])
    return model.get("unk_token")


def _batches(rows: Iterator[tuple[str, str, str]]) -> Iterator[list[tuple[str, str, str]]]:
    while batch := list(islice(rows, AT_ONCE)):
        yield batch


def _count(
    text: str, language: str, tokens: Sequence[str], offsets: Sequence[tuple[int, int]], unknown: str | None
) -> Counts:
    # By how many tokens each character is touched; those of an unknown token, or of several tokens, count as 2.
    touched = bytearray(len(text))
    num_unknown = 0
    previous = doubled = (0, 0)
    for token, (start, end) in zip(tokens, offsets, strict=True):
        num_unknown += token == unknown
        if token == SPACE:  # it is said to stand where the word after it begins
            continue
        if token == unknown or (start, end) == previous:
            if (start, end) != doubled:  # the bytes of a long unknown run all name the whole run
                touched[start:end] = b"\2" * (end - start)
            previous = doubled = (start, end)
            continue
        previous = (start, end)
        for place in range(start, end):
            touched[place] = min(2, touched[place] + 1)
    solid = [place for place, letter in enumerate(text) if not letter.isspace()]
    covered = sum(touched[place] == 1 for place in solid)
    return Counts(1, len(text), len(words(text, language)), len(tokens), num_unknown, len(solid), covered)
