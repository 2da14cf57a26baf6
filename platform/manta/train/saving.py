"""A rank's checkpoints as the training loop sees them: the step waits for a copy, the files are written meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from manta.errors import MantaError, StageFailed
from manta.sections.resources import TrainResources
from manta.storage import Folder
from manta.train import checkpoint
from manta.train.course import Course
from manta.train.driver import Driver
from manta.train.metrics import Metrics
from manta.train.watchdog import Watchdog
from manta.train.writer import Task, Writer

LOOKS = (0.005, 0.2)  # seconds between looks at a write that is waited for: the first, doubled up to the last
Agree = Callable[[Sequence[float]], Sequence[float]]


class Checkpoints:
    """All ranks call the same methods in the same order: what one of them has to wait for, or fails of, holds for all."""

    def __init__(
        self,
        folder: Folder,
        rank: int,
        resources: TrainResources,
        keep: int,
        engine: Any,
        course: Course,
        metrics: Metrics | None,
        dog: Watchdog,
        driver: Driver,
        resumed: checkpoint.State | None,
    ):
        """`metrics` is rank 0's. `resumed`: the checkpoint that training carries on from."""
        self.resources, self.engine, self.course = resources, engine, course
        self.metrics, self.dog, self.driver = metrics, dog, driver
        if metrics:
            for damage in checkpoint.tidy(folder):
                driver.note(damage)
            if resumed and resumed.figures:  # which the lines of the checkpoint itself cannot know
                metrics.add("checkpoint", resumed.step, **resumed.figures)
        (attempt,) = engine.total([float(time.time_ns() // 10**6) if rank == 0 else 0.0])
        self.writer = Writer(folder, rank, int(attempt), keep, metrics.sync if metrics else lambda: None, driver.tell)

    @property
    def failed(self) -> bool:
        """Whether this rank's part of the last checkpoint will never be written: say so to the others, then `settle`."""
        return self.writer.error is not None

    def save(self, step: int) -> None:
        """Take a copy and have it written while training goes on. Waits for the checkpoint before, if that still is."""
        began = time.monotonic()
        self.settle(step)
        with self.dog.during("checkpoint"):
            if self.metrics:
                self.metrics.add("memory", step, **_memory())
            lines = self.metrics.lines if self.metrics else 0
            part = self.engine.snapshot(checkpoint.name_of(step))
        stall = {"stall_s": round(time.monotonic() - began, 4)}
        resources, state = self.resources, self.course.state()
        made = checkpoint.State(step, resources.workers, resources.zero_stage, lines, **state, figures=stall)
        self.writer.start(Task(made, part, self.course.spared))

    def settle(self, step: int | None = None) -> None:
        """Wait until no rank writes any more; `step` is where training waits, None at its end.

        Raises StageFailed on all ranks when a part of one of them can never be written.
        """
        pause, told = LOOKS[0], False
        with self.dog.during("checkpoint"):
            while True:
                moves = self.writer.moves
                busy, troubled, failed = self.engine.total(
                    [float(self.writer.busy), float(self.writer.troubled), float(self.failed)]
                )
                if failed:
                    self._fail()
                if not busy:
                    break
                if troubled and not told:
                    told = True
                    where = "at its end" if step is None else f"at step {step}"
                    self.driver.note(f"training waits {where} until the checkpoint before it is written")
                time.sleep(pause)
                pause = min(2 * pause, LOOKS[1])
                if not self.writer.busy or self.writer.moves > moves:
                    self.dog.touch()
        self.note_finished()
        if told:
            self.driver.note("the checkpoint is written" + ("" if step is None else ": training goes on"))

    def note_finished(self) -> None:
        """Give checkpoints that were finished meanwhile their line in the metrics."""
        while self.metrics and self.writer.done:
            state = self.writer.done.pop(0)
            self.metrics.add("checkpoint", state.step, **state.figures)

    def _fail(self) -> None:
        """Raise the same on all ranks: what a restart would only repeat, or else what makes Ray restart the group."""
        import torch

        mine = self.writer.error
        told: list[Any] = [None] * self.resources.workers
        torch.distributed.all_gather_object(told, str(mine) if isinstance(mine, MantaError) else None)
        if reasons := [reason for reason in told if reason]:
            raise StageFailed(reasons[0])
        raise RuntimeError("a rank could not write its part of a checkpoint") from mine


def _memory() -> dict[str, Any]:
    from manta.train import speed

    return speed.memory()
