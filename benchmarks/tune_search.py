"""Searches over learning curves that are known: how many steps each would have trained, and what it would have found.

Steps are counted when a search asks for them, so those of trials under way count in full.
"""

from __future__ import annotations

import heapq
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from tune_curves import VOCAB, Grid, Overrides, key

from manta.sections.search import Search
from manta.tune import space, study
from manta.tune.order import END, Order, Reached

OBJECTIVE = "validation_loss"
Curves = Mapping[str, Mapping[int, float]]


class Found(NamedTuple):
    """A trial that was trained to its end: the loss there, and the steps that its search had asked for by then."""

    loss: float
    steps: int


class Comparison(NamedTuple):
    """What one seed of a search gave against a random search of the same seed."""

    share: float  # of the random search's steps after which its best loss was reached; 1 where it never was
    reached: bool
    difference: float  # best loss after a quarter of those steps, less the random search's best


def searched(grid: Grid, trials: int, in_flight: int, early: bool = True) -> Search:
    """The search of a sweep over the grid: TPE with successive halving, or a random one without it."""
    fields = {path: {"choice": values} for path, values in grid.space.items()}
    asha = {"early": {"method": "asha", "first_step": grid.marks[0], "factor": 3}} if early else {}
    raw = {"space": fields, "method": "tpe" if early else "random", "trials": trials, "in_flight": in_flight, **asha}
    return Search.model_validate(raw)


def random_best(grid: Grid, curves: Curves, trials: int, seed: int) -> float:
    """The best loss of a random search each of whose trials is trained to its end."""
    drawn = space.sample(searched(grid, trials, 1, early=False), seed)
    return min(curves[key(one)][grid.steps] for one in drawn)


def compared(found: Iterator[Found], target: float, budget: int, best_known: float | None = None) -> Comparison:
    """Follow a search until it has reached `target` or asked for more than `budget` steps.

    Its best loss after a quarter of them is told as the difference from `best_known`, without it from `target`.
    """
    known = target if best_known is None else best_known
    best = at_quarter = math.log(VOCAB)  # what a guess has
    for one in found:
        if one.steps > budget:
            break
        best = min(best, one.loss)
        if one.steps <= budget / 4:
            at_quarter = best
        if best <= target:
            share = one.steps / budget
            return Comparison(share, True, (best if share <= 0.25 else at_quarter) - known)
    return Comparison(1.0, False, at_quarter - known)


def manta(grid: Grid, curves: Curves, in_flight: int, seed: int) -> Iterator[Found]:
    """The sweep's own Order and Study, exactly as the keeper drives them."""
    made = searched(grid, len(grid.configurations), in_flight)
    order = Order(
        study.Study(made, seed, grid.steps),
        in_flight,
        OBJECTIVE,
        lambda _: (study.marks(made, grid.steps), float(grid.steps)),
    )
    asked: set[tuple[int, float]] = set()
    steps = 0
    order.advance()
    while waiting := order.waited_for:
        for member in waiting:
            if (member.number, member.next) not in asked:
                asked.add((member.number, member.next))
                steps += int(member.at(member.next)) - (member.passed[-1] if member.passed else 0)
        member = waiting[0]
        loss = curves[key(member.overrides)][int(member.at(member.next))]
        ended = member.next == END
        order.reached(member.number, member.next, Reached({OBJECTIVE: loss}, ended=ended))
        order.advance()
        if ended:
            yield Found(loss, steps)


def optuna(grid: Grid, curves: Curves, in_flight: int, seed: int) -> Iterator[Found]:
    """Plain Optuna with the same sampler and pruner in a bare loop, `in_flight` trials under way on the same clock."""
    ask, tell = _study(grid, seed)
    stops = grid.marks
    events: list[tuple[int, int, Any, Overrides, int]] = []  # (time, trial, handle, configuration, index of its stop)
    steps = number = clock = 0
    trials = len(grid.configurations)
    while number < trials or events:
        while number < trials and len(events) < in_flight:
            handle, overrides = ask()
            heapq.heappush(events, (clock + stops[0], number, handle, overrides, 0))
            steps += stops[0]
            number += 1
        clock, one, handle, overrides, at = heapq.heappop(events)
        loss = curves[key(overrides)][stops[at]]
        if stops[at] == grid.steps:
            tell(handle, loss)
            yield Found(loss, steps)
            continue
        handle.report(loss, stops[at])
        if handle.should_prune():
            tell(handle, None)
            continue
        further = stops[at + 1] - stops[at]
        steps += further
        heapq.heappush(events, (clock + further, one, handle, overrides, at + 1))


def _study(grid: Grid, seed: int) -> tuple[Callable[[], tuple[Any, Overrides]], Callable[[Any, float | None], None]]:
    import optuna as plain

    plain.logging.set_verbosity(plain.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", plain.exceptions.ExperimentalWarning)
        sampler = plain.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, n_startup_trials=10, constant_liar=True
        )
    pruner = plain.pruners.SuccessiveHalvingPruner(min_resource=grid.marks[0], reduction_factor=3)
    made = plain.create_study(sampler=sampler, pruner=pruner)

    def ask() -> tuple[Any, Overrides]:
        trial = made.ask()
        drawn = {
            path: json.loads(trial.suggest_categorical(path, [json.dumps(value) for value in values]))
            for path, values in grid.space.items()
        }
        return trial, drawn

    def tell(trial: Any, loss: float | None) -> None:
        if loss is None:
            made.tell(trial, state=plain.trial.TrialState.PRUNED)
        else:
            made.tell(trial, loss)

    return ask, tell
