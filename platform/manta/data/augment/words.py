"""Words swapped and deleted at random, the two of EDA's operations that need no dictionary."""

from __future__ import annotations

from typing import Any

from manta.data.augment import spans
from manta.data.augment.job import Job, one_by_one, picked, portion
from manta.sections.augment import Words


@one_by_one
def words(job: Job, settings: Words, generator: Any, _where: str) -> str:
    """Swap pairs of words within their sentence, then delete words (never all). Marks and line ends stay in place."""
    found, gaps = spans.apart(job.text, job.language)
    _swap(found, gaps, portion(settings.swap, len(found)), generator)
    gone = picked(generator, len(found), min(portion(settings.delete, len(found)), len(found) - 1))
    return _without(found, gaps, gone)


def _swap(found: list[str], gaps: list[str], swaps: int, generator: Any) -> None:
    sentence_of = [span for span in spans.sentences(gaps) for _ in range(*span)]
    places = [at for at, (start, end) in enumerate(sentence_of) if end - start > 1]
    for _ in range(swaps if places else 0):
        at = places[int(generator.integers(len(places)))]
        start, end = sentence_of[at]
        other = start + int(generator.integers(end - start - 1))
        other += other >= at
        found[at], found[other] = found[other], found[at]


def _without(found: list[str], gaps: list[str], gone: list[int]) -> str:
    """The text without some words, and without one of the two spaces that stood around each."""
    gaps = list(gaps)
    for at in gone:
        before, after = gaps[at], gaps[at + 1]
        if before.endswith(" "):
            before = before[:-1]
        elif after.startswith(" "):
            after = after[1:]
        gaps[at], gaps[at + 1] = "", before + after
        found[at] = ""
    return spans.together(found, gaps)
