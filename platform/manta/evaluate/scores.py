"""A task's score over a set of answers, and the same for each answer alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from manta.tasks import LABELLING, TASKS


@dataclass(frozen=True)
class Scored:
    """`figures` of the whole set as the task defines them (per cent, the main one under "score"); `each` answer's own."""

    figures: dict[str, float]
    each: list[float]
    shares: list[
        tuple[float, float]
    ]  # (numerator, denominator) of each answer: the score is the quotient of their sums

    @property
    def score(self) -> float:
        return self.figures["score"]


def score(task: str, predictions: Sequence[Any], references: Sequence[Any]) -> Scored:
    """Score answers by `manta.tasks`: the measure that the task's validation uses as well."""
    if len(predictions) != len(references) or not references:
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    module = TASKS[task]
    measure = module.score
    each = [measure([answer], [wanted])["score"] for answer, wanted in zip(predictions, references, strict=True)]
    # Of tasks whose figure is no such quotient the mean of the answers' own scores stands in for it.
    labelled = task in LABELLING
    shares = module.shares(predictions, references) if labelled else [(points / 100, 1.0) for points in each]
    return Scored(measure(list(predictions), list(references)), each, shares)
