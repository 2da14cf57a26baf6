"""The drill of sweeps: killed at ten random moments they end as the undisturbed one; who is given up makes room at once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from manta import artifact as artifacts
from manta.storage import Folder
from manta.train import metrics
from manta.train.drill import WORKER_TITLE
from tests.tune.test_sweep import sweep, table

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = 10


def written(folder: Path, model: Path, pairs: Path, resources: dict[str, Any], **search: Any) -> Path:
    """The recipe file of a sweep below `folder`, whose trials save at every step."""
    raw = sweep(model, pairs, folder, **search)
    raw["trial"] |= {"stop": {"steps": 8}, "checkpoint": {"every_steps": 1}, "resources": resources}
    file = folder / "tune.yaml"
    file.write_text(yaml.safe_dump(raw))
    return file


def trained(run: Path) -> set[tuple[str, int]]:
    """(trial, step) of all that stands in the trials' metrics."""
    return {
        (folder.name, line["step"])
        for folder in (run / "trials").glob("*")
        for line in metrics.read(Folder(folder))
        if line["kind"] == "train"
    }


class Killer:
    """Waits for a random moment of a sweep and ends its driver; every other time all that runs on its node."""

    def __init__(self, run: Path, wait_until: Callable[..., None]):
        self.run, self.wait_until = run, wait_until
        self.source, self.seen, self.moments = random.Random("ten moments"), set[tuple[str, int]](), list[str]()

    def strike(self, process: subprocess.Popen[str]) -> None:
        if self.source.random() < 0.4:  # while Ray or the trials start
            seconds = self.source.uniform(1, 20)
            self.moments.append(f"after {seconds:.1f} s")
            time.sleep(seconds)
        else:
            steps = self.source.randint(1, 3)
            self.moments.append(f"after {steps} new steps")
            before = len(self.seen)
            self.wait_until(
                lambda: process.poll() is not None or self._steps() >= before + steps, seconds=600, what="no new steps"
            )
        assert process.poll() is None, f"the sweep was over before kill {len(self.moments)}: {self.moments}"
        node = psutil.Process(process.pid).children(recursive=True) if len(self.moments) % 2 else []
        os.kill(process.pid, signal.SIGKILL)
        for one in node:
            if one.is_running():
                one.kill()
        process.communicate()

    def _steps(self) -> int:
        self.seen |= trained(self.run)
        return len(self.seen)


def test_a_sweep_killed_ten_times_ends_as_the_undisturbed_one(
    tiny_model: Path, pairs: Path, tmp_path: Path, manta_cli: Any, wait_until: Callable[..., None]
) -> None:
    places = {name: tmp_path / name for name in ("whole", "broken")}
    for folder in places.values():
        folder.mkdir()
    settings: dict[str, Any] = {"method": "tpe", "trials": 8}
    files = {
        name: written(folder, tiny_model, pairs, {"micro_batch": 2}, **settings) for name, folder in places.items()
    }
    whole = manta_cli("tune", files["whole"], timeout=1200)
    assert whole.returncode == 0, whole.stderr
    run = places["broken"] / "run"
    killer = Killer(run, wait_until)
    for _ in range(KILLS):
        begun = (run / "manifest.json").exists()  # the first kill may come before anything is written
        killer.strike(manta_cli.start(*(("resume", run) if begun else ("tune", files["broken"]))))
        assert not (run / "COMPLETE").exists()
    again = manta_cli("resume", run, timeout=1200)
    assert again.returncode == 0, again.stderr
    assert table(run) == table(places["whole"] / "run")
    assert {line["status"] for line in table(run)} == {"complete", "given up", "failed"}, "the seed has all three"
    made = [artifacts.open_artifact("run", str(folder)) for folder in places.values()]
    assert made[0].metrics["best_trial"] == made[1].metrics["best_trial"]
    assert len({one.folder.file_sha256("model/model.safetensors") for one in made}) == 1
    assert (run / "best.yaml").read_text().replace("broken", "whole") == (places["whole"] / "run/best.yaml").read_text()


# --- room ------------------------------------------------------------------------------------------------------------


class Watcher:
    """Follows a sweep from outside: when notes came, which workers lived when."""

    def __init__(self, process: subprocess.Popen[str], run: Path):
        self.process, self.run = process, run
        self.notes: list[tuple[float, str]] = []
        self.workers: dict[int, list[float]] = {}  # pid -> first and last time it was seen
        self.starts: dict[str, float] = {}  # trial -> when its first workers were ready
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._listen, self._look)]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = json.loads(line)
            if told.get("event") == "note":
                self.notes.append((time.monotonic(), told["text"]))

    def _look(self) -> None:
        while self.process.poll() is None:
            now = time.monotonic()
            for pid in self._training():
                self.workers.setdefault(pid, [now, now])[1] = now
            for folder in (self.run / "trials").glob("*"):
                if folder.name not in self.starts and metrics.read(Folder(folder)):
                    self.starts[folder.name] = now
            time.sleep(0.05)

    def _training(self) -> Iterator[int]:
        with contextlib.suppress(psutil.Error):  # the sweep has ended
            for one in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "".join(one.cmdline()).startswith(WORKER_TITLE):
                        yield one.pid

    def join(self) -> None:
        for thread in self._threads:
            thread.join()


def test_the_workers_of_a_trial_that_is_given_up_are_gone_before_the_next_one_trains(
    tiny_model: Path, pairs: Path, tmp_path: Path, manta_cli: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two workers a trial under ZeRO 1 and room for one trial: the next one can only start where the last one was."""
    space = {"optimizer.lr": {"choice": [1e-2, 1e-6, 2e-6]}}
    early = {"method": "asha", "first_step": 2, "factor": 2}
    resources = {"workers": 2, "zero_stage": 1, "micro_batch": 1}
    settings: dict[str, Any] = {"method": "grid", "trials": 3, "in_flight": 1, "space": space, "early": early}
    file = written(tmp_path, tiny_model, pairs, resources, **settings)
    run = tmp_path / "run"
    process = manta_cli.start("tune", file, "--json", "resources.concurrent_trials=1")
    seen = Watcher(process, run)
    process.wait(timeout=1200)
    seen.join()
    assert process.returncode == 0, process.stderr.read()
    assert [line["status"] for line in table(run)] == ["complete", "given up", "given up"]
    assert len(seen.workers) == 6, "two for each trial, none for longer than its own"
    decided = next(when for when, text in seen.notes if text.startswith("trial 001 given up"))
    ready = seen.starts["002"]
    assert decided < ready
    before = {pid: span for pid, span in seen.workers.items() if span[0] < decided}
    after = {pid: span for pid, span in seen.workers.items() if span[0] >= decided}
    assert (len(before), len(after)) == (4, 2)
    assert all(last < ready for _, last in before.values()), "nobody waits beside those that train"
    gone, born = max(last for _, last in before.values()), min(first for first, _ in after.values())
    with capsys.disabled():
        print(  # seconds depend on the machine: they are told, not asserted
            f"\ngiven up -> workers gone {gone - decided:.1f} s, next trial's workers {born - decided:.1f} s, "
            f"they are ready {ready - decided:.1f} s"
        )
