"""The benchmark of sweeps counts steps right, and compares like with like."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("tune_search")


def made(searches: ModuleType, rates: int = 6) -> tuple[Any, dict[str, dict[int, float]]]:
    """A grid whose losses are the rate's distance from 3, and 1/step."""
    grid = searches.Grid({"optimizer.lr": [float(rate) for rate in range(rates)]}, 9, (1, 3, 9))
    curves = {
        searches.key(one): {step: abs(one["optimizer.lr"] - 3) + 1 / step for step in grid.marks}
        for one in grid.configurations
    }
    return grid, curves


def test_a_comparison_by_hand(searches: ModuleType) -> None:
    def found() -> Iterator[Any]:
        yield from (searches.Found(3.0, 10), searches.Found(2.0, 25), searches.Found(1.0, 60))

    assert searches.compared(found(), 1.0, 100) == (0.6, True, 1.0)
    assert searches.compared(found(), 2.0, 100) == (0.25, True, 0.0)
    assert searches.compared(found(), 0.5, 100) == (1.0, False, 1.5)
    nothing = searches.compared(iter(()), 0.5, 100)
    assert nothing == (1.0, False, math.log(searches.VOCAB) - 0.5)


def test_the_random_search_trains_all_it_draws(searches: ModuleType) -> None:
    grid, curves = made(searches)
    assert searches.random_best(grid, curves, len(grid.configurations), 0) == 1 / 9, (
        "all of the grid: the best is in it"
    )


@pytest.mark.parametrize("side", ["manta", "optuna"])
def test_steps_by_hand_one_after_another(searches: ModuleType, side: str) -> None:
    """With one in flight each trial is decided before the next: a trial costs 1, 3 or 9 steps, by where it was stopped."""
    grid, curves = made(searches)
    found = list(getattr(searches, side)(grid, curves, 1, 0))
    assert min(one.loss for one in found) == 1 / 9 if side == "manta" else found
    before, cost = 0, set()
    for one in found:
        cost.add(one.steps - before)
        before = one.steps
    assert found[0].steps == 9, "nothing to compare the first one with: it is trained to its end"
    assert all(steps >= 9 for steps in cost), "each has its own 9 and those of the ones that were given up before it"
    assert before <= 9 * len(grid.configurations)


def test_what_is_in_flight_counts_in_full(searches: ModuleType) -> None:
    grid, curves = made(searches)
    first = next(searches.manta(grid, curves, 4, 0))
    assert first.steps >= 9 + 3, "the other three were asked for a step each at the least"


def test_the_grids_hold_what_the_searches_ask_for(searches: ModuleType) -> None:
    curves = importlib.import_module("tune_curves")
    for grid in (curves.QUICK, curves.FULL):
        asked = searches.study.marks(searches.searched(grid, 9, 4), grid.steps)
        assert (*asked, grid.steps) == grid.marks
        assert len({curves.key(one) for one in grid.configurations}) == len(grid.configurations)
    assert [curves._share(step, 10, 0.4) for step in (0, 3, 4, 9)] == [0.2, 0.8, 1.0, 1 / 6]
