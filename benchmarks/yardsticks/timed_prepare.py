"""Prepares a RECIPE as `manta prepare` does, tells the work that grows with the text from what is done once, and clears up."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from manta import cluster, recipe, stage
from manta.data.spread import spread
from manta.progress import Progress
from manta.schema import PrepareRecipe


class Watch(Progress):
    """Says nothing, and remembers when the tokenizer's training began and when the first shard was packed after it."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.training: tuple[float, float] | None = None  # when, and the seconds of CPU that this process had used
        self.training_cpu_s = 0.0

    def note(self, text: str, **fields: Any) -> None:
        if text.startswith("training a tokenizer"):
            self.training = time.time(), time.process_time()
        super().note(text, **fields)

    def update(self, done: float, total: float | None, unit: str, **figures: Any) -> None:
        if self.training and not self.training_cpu_s and unit == "characters tokenised":
            self.training_cpu_s = time.process_time() - self.training[1]
        super().update(done, total, unit, **figures)


def main() -> None:
    made = recipe.load(sys.argv[1], kind="prepare")
    assert isinstance(made, PrepareRecipe)
    cluster.connect(minimum_cpus=made.resources.cpus)
    try:
        list(spread(_nothing, [{}] * made.resources.cpus, made.resources.cpus))
        start_cpu_s, watch = _cpu_seconds(), Watch()
        outcome = stage.run(made, watch)
        folder = Path(outcome.artifact.folder.url)
        assert watch.training is not None, "the tokenizer was to be trained"
        # What is learnt from a sample of a size that the recipe sets: the last file of it is the report.
        learnt = max(path.stat().st_mtime for path in (folder / "tokenizer").iterdir())
        training_s = learnt - watch.training[0]
        once_cpu_s = start_cpu_s + watch.training_cpu_s
        told = {"stage_s": outcome.seconds, "training_s": training_s, "once_cpu_s": once_cpu_s}
        shutil.rmtree(folder)
        print(json.dumps(told | outcome.artifact.metrics))
    finally:
        cluster.disconnect()


def _nothing(_: dict[str, Any]) -> dict[str, Any]:
    return {}


def _cpu_seconds() -> float:
    """Of this process and of all that it started and that still run: Ray's."""
    used = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            used += times.user + times.system
    return used


if __name__ == "__main__":
    main()
