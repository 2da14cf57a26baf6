"""What it takes to schedule a sweep's trials: as many as asked for, through Ray Tune, whose training takes no time."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import harness
import psutil
import tune_stub

from manta import cluster, recipe
from manta.progress import Progress
from manta.schema import TuneRecipe
from manta.tune import board, launch
from manta.tune.keeper import Plan

AT_ONCE = 2
KEEPER_TITLE = "ray::Keeper"  # how Ray names the keeper's process
LOOK_S = 0.1


def scheduled(trials: int) -> dict[str, float]:
    """Run a sweep of trivial trials; seconds, CPU seconds and memory of the driver and the keeper.

    Starts a Ray of its own, in whose processes a trial's training is replaced, and ends it.
    """
    import ray

    place = harness.SCRATCH / "tune" / "trivial"
    shutil.rmtree(place, ignore_errors=True)
    here = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    for key, value in cluster.ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    ray.init(
        address="local",
        num_cpus=AT_ONCE + cluster.SPARE_CPUS,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        runtime_env={"worker_process_setup_hook": f"{tune_stub.__name__}.install"},
    )
    try:
        made = _recipe(trials, place)
        plan = Plan(recipe.resolved(made), {}, f"{place}/run", AT_ONCE, ())
        with cluster.relay(board.Board(Progress(quiet=True))) as mailbox, _Follower(place / "run/trials") as seen:
            launch.run(plan, AT_ONCE, mailbox, Progress(quiet=True))
        return seen.figures()
    finally:
        cluster.disconnect()
        shutil.rmtree(place, ignore_errors=True)  # runs that nobody could read


def _recipe(trials: int, output: Path) -> TuneRecipe:
    trial = {
        "kind": "finetune",
        "data": {"examples": "examples.jsonl", "validation_fraction": 0.1},
        "model": {"source": "package:none"},
        "task": {"name": "chat", "max_tokens": 64},
        "batch": {"samples": 4},
        "stop": {"steps": 27},
    }
    search = {
        "method": "tpe",
        "trials": trials,
        "space": {"optimizer.lr": {"loguniform": [1e-4, 1e-1]}, "optimizer.weight_decay": {"uniform": [0.0, 0.2]}},
        "early": {"method": "asha", "first_step": 3, "factor": 3},
    }
    raw = {"kind": "tune", "name": "run", "output": str(output), "trial": trial, "search": search}
    made = recipe.validate(raw, origin="benchmarks/tune_driver.py")
    assert isinstance(made, TuneRecipe)
    return made


class _Follower:
    """Reads CPU seconds and memory of the driver and the keeper as trials come."""

    def __init__(self, trials: Path):
        self._trials, self._over = trials, threading.Event()
        self._driver = psutil.Process()
        self._keeper: psutil.Process | None = None
        self.seen: list[tuple[int, float, float, float, float]] = []  # trials, moment, CPU s of both, bytes of both

    def __enter__(self) -> _Follower:
        self._thread = threading.Thread(target=self._follow, name="bench-follower", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._over.wait(LOOK_S):
            self._keeper = self._keeper or _titled(KEEPER_TITLE)
            started = len(list(self._trials.glob("*"))) if self._trials.exists() else 0
            if self._keeper is not None and started:
                self._look(started)

    def _look(self, started: int) -> None:
        assert self._keeper is not None
        try:
            cpu = [sum(one.cpu_times()[:2]) for one in (self._driver, self._keeper)]
            held = sum(one.memory_info().rss for one in (self._driver, self._keeper))
        except psutil.Error:
            return  # the keeper has ended
        self.seen.append((started, time.monotonic(), cpu[0], cpu[1], float(held)))

    def figures(self) -> dict[str, float]:
        """Milliseconds a trial, from the time at which the first ones were started: starting up is not scheduling."""
        first, last = self.seen[0], self.seen[-1]
        trials = last[0] - first[0]
        wall, driver, keeper = (1e3 * (last[at] - first[at]) / trials for at in (1, 2, 3))
        return {
            "trials": last[0],
            "driver_ms": driver + keeper,
            "tune_ms": driver,
            "keeper_ms": keeper,
            "wall_ms": wall,
            "held_mib": last[4] / 2**20,
        }


def _titled(title: str) -> psutil.Process | None:
    for one in psutil.Process().children(recursive=True):
        try:
            if any(part.startswith(title) for part in one.cmdline()):
                return one
        except psutil.Error:
            continue
    return None
