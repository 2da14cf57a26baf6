"""Sweeps without training: a Study and an Order whose trials' figures come from a formula, in any order of arrival."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from manta.sections.search import Search
from manta.tune import study
from manta.tune.order import END, Member, Order, Reached
from manta.tune.space import Overrides

Formula = Callable[[Overrides, int], float]  # (configuration, step) -> validation loss


def search(**changes: Any) -> Search:
    return Search.model_validate({"space": {"optimizer.lr": {"loguniform": [1e-4, 1e-1]}}, "trials": 12, **changes})


def bowl(overrides: Overrides, step: int) -> float:
    """Least at a learning rate of 3e-3, and lower the longer a trial trains."""
    import math

    return (math.log10(overrides["optimizer.lr"]) - math.log10(3e-3)) ** 2 + 1.0 / (1 + step)


class Sweep:
    """Runs a search to its end; `chance` shuffles which of the results that are on their way comes first."""

    def __init__(self, made: Search, formula: Formula = bowl, steps: int = 27, seed: int = 0, chance: int = 0):
        self.formula, self.steps, self.source = formula, steps, random.Random(chance)
        self.trained: dict[int, int] = {}  # trial -> steps that were trained
        self.order = Order(
            study.Study(made, seed, steps),
            made.in_flight,
            next(iter(made.objectives)),
            lambda _: (study.marks(made, steps), float(steps)),
        )
        self.order.advance()

    def step(self) -> bool:
        """Let one of the results that are waited for come; returns whether there was one."""
        waiting = self.order.waited_for
        if not waiting:
            return False
        member = self.source.choice(waiting)
        mark = member.next
        self.trained[member.number] = int(min(mark, self.steps))
        self.order.reached(member.number, mark, self.result(member, mark))
        self.order.advance()
        return True

    def result(self, member: Member, mark: float) -> Reached:
        value = self.formula(member.overrides, int(min(mark, self.steps)))
        return Reached({"validation_loss": value}, ended=mark == END)

    def run(self) -> list[tuple[Any, ...]]:
        while self.step():
            pass
        assert self.order.finished
        return self.told()

    def told(self) -> list[tuple[Any, ...]]:
        return [(one.overrides, one.status, one.step, one.figures) for one in self.order.members]
