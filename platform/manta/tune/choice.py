"""Which of a sweep's trials is the best: within the constraints, by one objective or by several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manta.sections.search import Search
from manta.tune import figures

Line = dict[str, Any]  # of the table of trials


def allowed(trials: Sequence[Line], search: Search) -> list[Line]:
    """The complete trials that keep every constraint."""
    return [
        line
        for line in trials
        if line["status"] == "complete"
        and all(over <= 0 for over in figures.excess(line["figures"], search.constraints).values())
    ]


def pareto(trials: Sequence[Line], search: Search) -> list[Line]:
    """Those that no other is at least as good as in every objective and better than in one; the best first."""
    found = allowed(trials, search)
    front = [line for line in found if not any(_dominates(other, line, search) for other in found)]
    return sorted(front, key=lambda line: _values(line, search))


def ranked(trials: Sequence[Line], search: Search) -> list[Line]:
    """The allowed ones from the best on: by the first objective, of equals by the next ones, then the earlier one."""
    return sorted(allowed(trials, search), key=lambda line: _values(line, search))


def best(trials: Sequence[Line], search: Search) -> Line | None:
    """The first of `ranked`; None if none is allowed."""
    return next(iter(ranked(trials, search)), None)


def _values(line: Line, search: Search) -> tuple[float, ...]:
    """As numbers of which less is better."""
    return tuple(line["figures"][name] * (1 if mode == "min" else -1) for name, mode in search.objectives.items())


def _dominates(one: Line, other: Line, search: Search) -> bool:
    mine, theirs = _values(one, search), _values(other, search)
    return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))
