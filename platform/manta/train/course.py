"""Keeps a run on course: whether a step's update counts, what follows from a bad one, and when training has been enough."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from manta.errors import StageFailed
from manta.schema import FinetuneRecipe, PretrainRecipe
from manta.storage import Folder
from manta.train import checkpoint, patience, stability

BESIDE = "work/stability.json"  # what a roll-back learnt, which the checkpoint it goes back to cannot know


class RolledBack(RuntimeError):
    """Raised on every rank, so that Ray restarts the group at the newest checkpoint."""


class Course:
    """The same on every rank, since all ranks feed it the same figures; its state is part of every checkpoint."""

    def __init__(self, recipe: PretrainRecipe | FinetuneRecipe, folder: Folder, state: checkpoint.State | None):
        self.settings, self.early, self.folder = recipe.stability, recipe.early_stop, folder
        stored = stability.State(**state.stability) if state and state.stability else None
        beside = stability.State(**json.loads(folder.read_text(BESIDE))) if folder.exists(BESIDE) else None
        self._stable = self._before = stability.after_restart(stored, beside)
        self._patient = patience.State(**state.patience) if state and state.patience else patience.State()
        self._verdict, self._stream = stability.Verdict("go_on"), 0

    def judge(self, step: int, loss: float, norm: float | None, stream: int = 0) -> bool:
        """Whether the update of `step` (from 0), of a stream, is to be made; `norm` where it is known before."""
        self._before, self._stream = self._stable, stream
        self._verdict, self._stable = stability.feed(self._before, step, loss, norm, self.settings, stream)
        return self._verdict.action == "go_on"

    def settle(self, step: int, loss: float, norm: float, rank: int, barrier: Callable[[], None]) -> str:
        """What is to be said of the step, or nothing. Raises StageFailed or RolledBack where it cannot stand.

        `barrier()` returns when all ranks have called it, and what they have to finish before they end is finished.
        DeepSpeed leaves an update out by itself when the norm it finds is not finite: such a step is judged again.
        """
        if self._verdict.action == "go_on" and not math.isfinite(norm):
            judged = stability.feed(self._before, step, loss, norm, self.settings, self._stream)
            self._verdict, self._stable = judged
        if self._verdict.action == "stop":
            barrier()
            raise StageFailed(self._verdict.why)
        if self._verdict.action == "roll_back":
            if rank == 0:
                self.folder.write_text(BESIDE, json.dumps(asdict(self._stable)))
            barrier()  # the file stands before any rank's end brings the others down
            raise RolledBack(self._verdict.why)
        return self._verdict.why

    def validated(self, step: int, figures: Mapping[str, Any]) -> bool:
        """Take note of a validation. Returns whether its weights are to be kept, as the best so far."""
        if self.early is None:
            return False
        self._patient = patience.observe(self._patient, step, patience.figure_of(figures, self.early), self.early)
        return self.spared == step

    @property
    def exhausted(self) -> bool:
        """Whether training ends before the planned step."""
        return self.early is not None and patience.exhausted(self._patient, self.early)

    @property
    def spared(self) -> int | None:
        """The step whose checkpoint is to be kept and exported; None: the last one."""
        return patience.spared(self._patient, self.early) if self.early is not None else None

    def state(self) -> dict[str, Any]:
        """For checkpoint.State."""
        return {"stability": asdict(self._stable), "patience": asdict(self._patient)}

    def figures(self) -> dict[str, Any]:
        """For the manifest: updates that were left out, the best validation."""
        found: dict[str, Any] = {}
        if self._stable.left_out:
            found["updates_left_out"] = self._stable.left_out
        if self.early is not None and self._patient.best is not None:
            found |= {f"best_{self.early.figure}": self._patient.best, "best_step": self._patient.best_step}
        return found
