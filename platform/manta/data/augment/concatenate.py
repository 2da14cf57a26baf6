"""Documents joined with the next ones of their language: long contexts out of short texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from manta.data.augment.job import Job, Made
from manta.sections.augment import Concatenate


def concatenate(jobs: Sequence[Job], settings: Concatenate, _where: str) -> Iterator[Made]:
    """Each job's document, then the next ones among the jobs of its language, as they stand in the unit.

    The jobs must be those of a whole unit: which documents follow each other is the only thing that decides. A second
    variant takes the documents after those of the first. The last ones of a unit have too few after them: `alone`.
    """
    by_language: dict[str, list[int]] = {}
    place: list[int] = []
    for number, job in enumerate(jobs):
        line = by_language.setdefault(job.language, [])
        place.append(len(line))
        line.append(number)
    for number, job in enumerate(jobs):
        first = place[number] + 1 + job.number * (settings.documents - 1)
        following = by_language[job.language][first : first + settings.documents - 1]
        if len(following) < settings.documents - 1:
            yield Made("", "alone")
        else:
            yield Made(settings.separator.join([job.text, *(jobs[other].text for other in following)]))
