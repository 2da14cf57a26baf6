"""What a trial of a sweep takes beyond the same training by itself: real fine-tunings, one after the other, both ways.

Both sides have a Ray that is up, the same recipes, and fresh folders. A training by itself is `manta finetune` as a stage,
with the start of its worker; a trial is that and what the sweep does around it: from the moment at which the first trial
begins to the finished sweep, divided by the trials.
"""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import harness
import task_examples
import tune_curves

from manta import cluster, recipe, stage
from manta.progress import Progress

RATES = [1.0e-3, 2.0e-3, 4.0e-3]  # a trial for each
STEPS, ROWS, LOOK_S = 200, 8, 0.05


def compared(bench: harness.Bench, repeats: int) -> None:
    """Put `trial_overhead_share` into the row."""
    train, test = task_examples.split("summarisation", 1200, tune_curves.HELD_OUT)
    trial = {
        "kind": "finetune",
        "data": {"examples": str(train), "validation": str(test)},
        "model": {"source": str(_base())},
        "task": {"name": "summarisation", "max_input_tokens": 48, "max_target_tokens": 24},
        "optimizer": {"precision": "fp32"},
        "batch": {"samples": ROWS},
        "stop": {"steps": STEPS},
        "checkpoint": {"every_steps": 10**6},
        "evaluate": {"every_steps": STEPS},
        "resources": {"micro_batch": ROWS, "zero_stage": 0},
    }
    bench.settings["overhead"] = {"trials": len(RATES), "steps": STEPS, "rows": ROWS}
    cluster.connect()
    try:
        sides = {"sweep": lambda: _swept(trial), "alone": lambda: _alone(trial)}
        runs = bench.alternate(sides, repeats, label="overhead")
    finally:
        cluster.disconnect()
    ratios = harness.pair_ratios(runs["sweep"], runs["alone"], "s_per_trial")
    note = f"seconds of a trial of {STEPS} steps in a sweep / of the same training by itself, less 1"
    bench.figure("trial_overhead_share", [ratio - 1 for ratio in ratios], "", note)
    seconds = [run.value("s_per_trial") for run in runs["alone"] if not run.error]
    bench.figure("trial_alone_s", seconds, "s", "that training by itself, with the start of its worker")
    started = [run.value("start_s") for run in runs["sweep"] if not run.error]
    bench.figure("sweep_start_s", started, "s", "before a sweep's first trial: the keeper and a slot, once a sweep")


def _alone(trial: dict[str, Any]) -> dict[str, float]:
    place = _place("alone")
    begun = time.monotonic()
    for number, rate in enumerate(RATES):
        raw = trial | {"name": f"{number:03}", "output": str(place), "seed": 0}
        raw["optimizer"] = trial["optimizer"] | {"lr": rate}
        stage.run(recipe.validate(raw, origin=__file__), Progress(quiet=True))
    return {"s_per_trial": (time.monotonic() - begun) / len(RATES)}


def _swept(trial: dict[str, Any]) -> dict[str, float]:
    place = _place("swept")
    search = {"method": "grid", "trials": len(RATES), "space": {"optimizer.lr": {"choice": RATES}}}
    raw = {"kind": "tune", "name": "sweep", "output": str(place), "seed": 0, "trial": trial, "search": search}
    made = recipe.validate(raw | {"resources": {"concurrent_trials": 1}}, origin=__file__)
    begun = time.monotonic()
    with _FirstSeen(place / "sweep" / "trials" / "000") as first:
        stage.run(made, Progress(quiet=True))
    ended = time.monotonic()
    return {"s_per_trial": (ended - first.at) / len(RATES), "start_s": first.at - begun}


class _FirstSeen:
    """The moment at which a folder comes into being."""

    def __init__(self, folder: Path):
        self._folder, self._over = folder, threading.Event()
        self.at = float("nan")

    def __enter__(self) -> _FirstSeen:
        self._thread = threading.Thread(target=self._follow, name="bench-first-seen", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._folder.exists():
            if self._over.wait(LOOK_S):
                return
        self.at = time.monotonic()


def _base() -> Path:
    """The small model of the learning curves as a Hugging Face directory."""
    folder = harness.SCRATCH / "tune" / "base"
    if not (folder / "model.safetensors").exists():
        words = tune_curves.words(harness.SCRATCH / "tune" / "words")
        words.save_pretrained(folder)
        tune_curves.model().save_pretrained(folder)
    return folder


def _place(name: str) -> Path:
    folder = harness.SCRATCH / "tune" / name
    shutil.rmtree(folder, ignore_errors=True)
    return folder
