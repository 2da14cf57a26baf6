"""Bounds on how long a text is and how much of it is letters."""

from __future__ import annotations

from manta.data.cleaning.batch import Batch, Outcome, judged
from manta.data.cleaning.words import words
from manta.sections.prepare import Length, Letters


def length(batch: Batch, settings: Length) -> Outcome:
    """Drop what is shorter or longer than the limits, which are allowed themselves."""
    return judged(batch, [_length(*pair, settings) for pair in zip(batch.texts, batch.languages, strict=True)])


def _length(text: str, language: str, settings: Length) -> str | None:
    if len(text) < settings.min_chars:
        return "length.min_chars"
    if len(text) > settings.max_chars:
        return "length.max_chars"
    if settings.min_words or settings.max_words is not None:
        count = len(words(text, language))
        if count < settings.min_words:
            return "length.min_words"
        if settings.max_words is not None and count > settings.max_words:
            return "length.max_words"
    return None


def letters(batch: Batch, settings: Letters) -> Outcome:
    """Drop texts whose letters (in any script) make up less than the share of the characters that are not space."""

    def judge(text: str) -> str | None:
        solid = len("".join(text.split()))
        share = sum(map(str.isalpha, text)) / solid if solid else 0.0
        return "letters.min_fraction" if share < settings.min_fraction else None

    return judged(batch, map(judge, batch.texts))
