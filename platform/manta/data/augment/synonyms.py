"""Words replaced by synonyms of a dictionary: only whole words that stand there exactly so."""

from __future__ import annotations

from typing import Any

from manta.data.augment import dictionary, spans, wordnet
from manta.data.augment.job import Job, one_by_one, picked, portion
from manta.sections.augment import Synonyms

VOWELS = frozenset("aeiouAEIOU")


@one_by_one
def synonyms(job: Job, settings: Synonyms, generator: Any, where: str) -> str:
    """Replace a share of the words, drawn from those that have synonyms, each by one of them.

    A dictionary of lower-case words leaves capitalised ones alone: most are names, the others begin a sentence. After
    `a` and `an` only what fits the article is taken.
    """
    known = dictionary.read(settings.path, f"{where}.path") if settings.path else wordnet.read(where)
    found, gaps = spans.apart(job.text, job.language)
    candidates = [(at, others) for at in range(len(found)) if (others := fitting(known, found, at))]
    wanted = portion(settings.rate, len(found))
    for number in picked(generator, len(candidates), wanted):
        at, others = candidates[number]
        found[at] = others[int(generator.integers(len(others)))]
    return spans.together(found, gaps)


def fitting(known: dictionary.Dictionary, found: list[str], at: int) -> tuple[str, ...]:
    """The synonyms of the word at a place; after `a` and `an` those alone that fit the article."""
    others = known.get(found[at], ())
    if others and at and found[at - 1].lower() in ("a", "an"):
        begins = found[at][0] in VOWELS
        return tuple(other for other in others if (other[0] in VOWELS) == begins)
    return others
