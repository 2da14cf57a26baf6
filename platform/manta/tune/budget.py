"""What a sweep may spend: hours over all of its attempts, kept in its folder."""

from __future__ import annotations

import json
from time import monotonic

from manta.schema import TuneRecipe
from manta.storage import Folder

SPENT = "spent.json"


class Budget:
    """Hours spent over all attempts of a sweep, kept in its folder."""

    def __init__(self, recipe: TuneRecipe, folder: Folder):
        self._limits, self._folder, self._began = recipe.search.budget, folder, monotonic()
        old = json.loads(folder.read_text(SPENT)) if folder.exists(SPENT) else {}
        self._before, self._worker_seconds = old.get("seconds", 0.0), old.get("worker_seconds", 0.0)
        self._started = old.get("trials", 0)
        self.closed = False

    def spend(self, seconds: float, workers: int) -> None:
        """A run held its workers for `seconds`."""
        self._worker_seconds += seconds * workers
        self._save()

    def allows(self, number: int) -> bool:
        """Whether trial `number` may start. One that did in an earlier attempt may: its results are part of the sweep."""
        if number < self._started:
            return True
        limits = self._limits
        over_time = limits.hours is not None and self._seconds >= 3600 * limits.hours
        over_workers = limits.worker_hours is not None and self._worker_seconds >= 3600 * limits.worker_hours
        self.closed = self.closed or over_time or over_workers
        if self.closed:
            return False
        self._started = number + 1
        if limits.hours is not None or limits.worker_hours is not None:
            self._save()
        return True

    def spent(self, held: float) -> dict[str, dict[str, float]]:
        """Of each limit that is set, the hours that are spent of it; `held`: worker-seconds of runs that are under way."""
        seconds = {"hours": self._seconds, "worker_hours": self._worker_seconds + held}
        limits = {name: getattr(self._limits, name) for name in seconds}
        return {
            name: {"spent": round(seconds[name] / 3600, 3), "budget": limit}
            for name, limit in limits.items()
            if limit is not None
        }

    def _save(self) -> None:
        said = {"seconds": self._seconds, "worker_seconds": self._worker_seconds}
        said = {name: round(value, 1) for name, value in said.items()} | {"trials": self._started}
        self._folder.write_text(SPENT, json.dumps(said))

    @property
    def _seconds(self) -> float:
        return float(self._before + monotonic() - self._began)
