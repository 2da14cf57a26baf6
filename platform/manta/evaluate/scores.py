"""A task's score over a set of answers, and the same for each answer alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from manta.tasks import TASKS


@dataclass(frozen=True)
class Scored:
    """`figures` of the whole set as the task defines them (per cent, the main one under "score"); `each` answer's own."""

    figures: dict[str, float]
    each: list[float]

    @property
    def score(self) -> float:
        return self.figures["score"]


def score(task: str, predictions: Sequence[str], references: Sequence[str]) -> Scored:
    """Score answers by `manta.tasks`: the measure that the task's validation uses as well."""
    if len(predictions) != len(references) or not references:
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    measure = TASKS[task].score
    each = [measure([answer], [wanted])["score"] for answer, wanted in zip(predictions, references, strict=True)]
    return Scored(measure(list(predictions), list(references)), each)
