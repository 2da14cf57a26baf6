"""What a trial of a sweep takes beyond the same training by itself: real fine-tunings, one after the other, both ways.

Both sides have a Ray that is up, the same recipes, and fresh folders. A training by itself is `manta finetune` as a stage,
with the start of its worker; a trial is that and what the sweep does around it. The first one of each side is left out:
processes that serve all of them are started with it. What a sweep costs once is told apart.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import harness
import task_examples
import tune_curves

from manta import cluster, recipe, stage
from manta.progress import Progress

RATES = [1.0e-3, 2.0e-3, 4.0e-3, 8.0e-3]  # a trial for each
STEPS, ROWS = 200, 8


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
    once = [run.value("once_s") for run in runs["sweep"] if not run.error]
    bench.figure(
        "sweep_once_s", once, "s", "of a sweep beyond its trials: the keeper, a slot's imports, the winner, the page"
    )


def _alone(trial: dict[str, Any]) -> dict[str, float]:
    place = _place("alone")
    for number, rate in enumerate(RATES):
        raw = trial | {"name": f"{number:03}", "output": str(place), "seed": 0}
        raw["optimizer"] = trial["optimizer"] | {"lr": rate}
        stage.run(recipe.validate(raw, origin=__file__), Progress(quiet=True))
    return {"s_per_trial": _steady(place)}


def _swept(trial: dict[str, Any]) -> dict[str, float]:
    place = _place("swept")
    search = {"method": "grid", "trials": len(RATES), "space": {"optimizer.lr": {"choice": RATES}}}
    raw = {"kind": "tune", "name": "sweep", "output": str(place), "seed": 0, "trial": trial, "search": search}
    made = recipe.validate(raw | {"resources": {"concurrent_trials": 1}}, origin=__file__)
    seconds = stage.run(made, Progress(quiet=True)).seconds
    steady = _steady(place / "sweep" / "trials")
    return {"s_per_trial": steady, "once_s": seconds - len(RATES) * steady}


def _steady(runs: Path) -> float:
    """Seconds of a run, from the moment at which the second one took its folder to the last one's end."""
    names = [f"{number:03}" for number in range(len(RATES))]
    begun, ended = (runs / names[1] / ".lock").stat().st_mtime, (runs / names[-1] / "COMPLETE").stat().st_mtime
    return (ended - begun) / (len(RATES) - 1)


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
