"""What a sweep shows of its trials, without running any."""

import io
import json
from typing import Any

import pytest

from manta import cluster
from manta.progress import Progress
from manta.tune import board, sweep
from tests.tune.simulated import search
from tests.tune.test_space import tune


def line(name: str, loss: float | None, status: str = "complete", **more: Any) -> dict[str, Any]:
    figures = {} if loss is None else {"validation_loss": loss}
    made = {"trial": name, "overrides": {"optimizer.lr": 0.1}, "status": status, "step": None, "figures": figures}
    return made | {"reason": ""} | more


def test_trials_never_wait_for_each_other_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(cpus: int, gpus: int = 0, workers: int = 1, each: int = 1, gpu: int = 0, trials: int = 8) -> int:
        monkeypatch.setattr(cluster, "total_cpus", lambda: cpus)
        monkeypatch.setattr("ray.cluster_resources", lambda: {"GPU": gpus})
        recipe = tune({"optimizer.lr": {"uniform": [0.1, 0.2]}}, trials=trials)
        recipe = recipe.model_copy(update={"resources": recipe.resources.model_copy(update={"concurrent_trials": 4})})
        return sweep.room(recipe, workers, each, gpu)

    assert at_once(2) == 2
    assert at_once(2, workers=2) == 1
    assert at_once(16) == 4
    assert at_once(16, each=3, workers=2) == 2
    assert at_once(16, gpu=1, gpus=3) == 3
    assert at_once(16, trials=1) == 1
    assert at_once(2, workers=2, each=2) == 1, "what cannot fit at all is refused elsewhere"


def test_the_table_marks_the_best_and_says_why_others_are_not_there() -> None:
    trials = [
        line("000", 2.5),
        line("001", None, "failed", reason="no space\nmore"),
        line("002", 3.0, "given up", step=9, overrides={}),
    ]
    lines = board.table(trials, search(), trials[0]).splitlines()
    assert lines[1].split() == ["trial", "lr", "validation", "loss"]
    assert lines[2].endswith("2.5              <- best")
    assert lines[3].endswith("failed: no space")
    assert lines[4].split() == ["002", "-", "3", "given", "up", "at", "step", "9"]


def test_the_board_adds_up_what_trials_report() -> None:
    stream = io.StringIO()
    shown = board.Board(Progress(as_json=True, stream=stream))
    shown.update(0.5, 1.0, "steps", run="001", loss=3.0)
    assert not stream.getvalue(), "how many trials there are is not known yet"
    shown.update(0.7, 1.0, "steps", run="002", loss=2.5)
    shown.update(1, 4, "trials", sweep=True, best=2.0)
    events = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert events[-1] | {"seconds_left": None} == {
        "event": "progress", "stage": "", "done": 1, "total": 4, "unit": "trials", "seconds_left": None,
        "best": 2.0, "runs": [
            {"trial": "001", "state": "trains", "done": 0.5, "total": 1.0, "unit": "steps", "loss": 3.0, "seconds_left": None},
            {"trial": "002", "state": "trains", "done": 0.7, "total": 1.0, "unit": "steps", "loss": 2.5, "seconds_left": None},
        ],
    }  # fmt: skip
