"""What a run knows of the sweep that it belongs to: the steps at which it asks whether it is to go on, and what it shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from manta.errors import StageFailed

LOOK_SECONDS = 0.2  # between looks whether the answer has come


class Halted(StageFailed):
    """The run was told to stop at a mark; its checkpoint is there, and it can be carried on."""


@dataclass(frozen=True)
class Marks:
    """`keeper` is an actor whose `arrived(run, step, figures)` answers, when it is known, whether the run goes on.

    `figures` are those of the validation at `step`; None where the run was restarted at a mark that it had reached.
    `shared` is a folder for the rows of a task, which runs with the same examples, task and model write once.
    """

    steps: tuple[int, ...]
    keeper: Any
    run: str
    shared: str


class Gate:
    """A rank's view of the marks: rank 0 asks, the others learn the answer with it."""

    def __init__(self, marks: Marks | None, rank: int, engine: Any, dog: Any):
        self.steps = marks.steps if marks is not None else ()
        self._marks, self._rank, self._engine, self._dog = marks, rank, engine, dog
        self.halted = False

    def closed(self, step: int, figures: Mapping[str, Any] | None) -> bool:
        """Whether training ends at `step`. Waits at a mark for as long as the answer takes."""
        if self._marks is None or step not in self.steps:
            return False
        import ray

        answer = self._marks.keeper.arrived.remote(self._marks.run, step, figures) if self._rank == 0 else None
        while True:
            told = bool(ray.wait([answer], timeout=LOOK_SECONDS)[0]) if answer is not None else False
            goes_on = bool(ray.get(answer)) if told else False
            come, going = self._engine.total([float(told), float(goes_on)])
            if come:
                self.halted = not going
                return self.halted
            self._dog.touch()
