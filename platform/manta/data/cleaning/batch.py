"""What a cleaning step is given and what it answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Batch:
    """Texts with their languages (ISO 639-1, "" where nobody has told yet)."""

    texts: list[str]
    languages: list[str]


@dataclass(frozen=True)
class Outcome:
    """For each document of a batch: the text afterwards, its language, and the rule it broke or None."""

    texts: list[str]
    languages: list[str]
    reasons: list[str | None]


def changed(batch: Batch, texts: Iterable[str]) -> Outcome:
    """Other texts, nothing dropped."""
    return Outcome(list(texts), batch.languages, [None] * len(batch.texts))


def judged(batch: Batch, reasons: Iterable[str | None]) -> Outcome:
    """The same texts, each kept (None) or dropped for a reason."""
    return Outcome(batch.texts, batch.languages, list(reasons))
