"""Early stopping: whether a validation was the best so far, and whether it is time to end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from manta.errors import InputError
from manta.sections.optimisation import EarlyStop


@dataclass(frozen=True)
class State:
    """What is remembered of the validations; plain values, stored with each checkpoint."""

    best: float | None = None
    best_step: int = 0  # steps trained when it was measured
    stale: int = 0  # validations since then


def observe(state: State, step: int, value: float, settings: EarlyStop) -> State:
    """The state after a validation at `step`. A figure that is not a number is never better.

    Every rank that feeds the same figures has the same state; so has a run that carries on from a checkpoint.
    """
    if _better(value, state.best, settings):
        return State(value, step, 0)
    return replace(state, stale=state.stale + 1)


def _better(value: float, best: float | None, settings: EarlyStop) -> bool:
    if math.isnan(value):
        return False
    if best is None:
        return True
    gain = best - value if settings.mode == "min" else value - best
    return gain > settings.min_delta


def exhausted(state: State, settings: EarlyStop) -> bool:
    """Whether the last `patience` validations were all no better."""
    return state.stale >= settings.patience


def spared(state: State, settings: EarlyStop) -> int | None:
    """The step whose checkpoint must stay because its weights may be exported; None where the last ones are."""
    return state.best_step if settings.keep_best and state.best is not None else None


def figure_of(figures: Mapping[str, Any], settings: EarlyStop) -> float:
    """The figure that decides, of a validation's line. Raises InputError if the line has no such figure."""
    if settings.figure not in figures:
        known = ", ".join(name for name, value in figures.items() if isinstance(value, int | float))
        raise InputError(f"early_stop.figure = {settings.figure!r} is not measured: choose one of {known}")
    return float(figures[settings.figure])
