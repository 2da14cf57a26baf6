"""What a sweep makes of its trials' results, without running any."""

import io
import json

import pytest

from manta import recipe as recipes
from manta import stage
from manta.errors import RecipeError
from manta.progress import Progress
from manta.schema import TuneRecipe
from manta.tune import board, sweep


def result(name: str, metric: float | None, reason: str = "") -> dict:
    status = "failed" if metric is None else "complete"
    return {"trial": name, "overrides": {"optimizer.lr": 0.1}, "status": status, "metric": metric, "reason": reason}


def test_the_best_is_the_lowest_or_highest_and_the_first_of_equals() -> None:
    results = [result("000", 2.0), result("001", None, "lost"), result("002", 1.0), result("003", 1.0)]
    assert sweep.choose(results, "min") is results[2]
    assert sweep.choose(results, "max") is results[0]
    assert sweep.choose([result("000", None)], "min") is None


def test_trials_never_wait_for_each_other_for_ever() -> None:
    def at_once(**changes: int) -> int:
        room = {"wanted": 4, "todo": 8, "workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0, "cpus": 2, "gpus": 0}
        return sweep.concurrency(**(room | changes))

    assert at_once() == 2
    assert at_once(workers=2) == 1
    assert at_once(cpus=16) == 4
    assert at_once(cpus=16, cpus_per_worker=3, workers=2) == 2
    assert at_once(cpus=16, gpus_per_worker=1, gpus=3) == 3
    assert at_once(cpus=16, todo=1) == 1
    assert at_once(workers=2, cpus_per_worker=2) == 1, "what cannot fit at all is refused elsewhere"


def test_the_table_marks_the_best_and_says_why_others_failed() -> None:
    results = [result("000", 2.5), result("001", None, "no space\nmore")]
    lines = board.table(results, "validation_loss", results[0]).splitlines()
    assert lines[1].split() == ["trial", "lr", "validation", "loss"]
    assert lines[2].endswith("2.5  <- best")
    assert lines[3].endswith("failed: no space")


def test_the_board_adds_up_what_trials_report() -> None:
    stream = io.StringIO()
    shown = board.Board(Progress(as_json=True, stream=stream), done=1, total=4, mode="min")
    shown.update(0.5, 1.0, "steps", trial="001", loss=3.0)
    shown.update(1.0, 1.0, "trials", trial="002", result=float("nan"))
    shown.update(1.0, 1.0, "trials", trial="001", result=2.0)
    shown.update(1.0, 1.0, "trials", trial="003", result=2.5)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert events[0]["done"] == 1.5
    assert events[0]["loss of 001"] == 3.0
    assert events[-1] | {"seconds_left": None} == {
        "event": "progress", "stage": "", "done": 4.0, "total": 4, "unit": "trials", "seconds_left": None, "best": 2.0,
    }  # fmt: skip


def test_an_unknown_metric_is_refused_before_anything_starts() -> None:
    recipe = recipes.validate(
        {
            "kind": "tune",
            "name": "sweep",
            "data": {"examples": "shards"},
            "model": {"source": "base"},
            "task": {"name": "chat"},
            "batch": {"samples": 8},
            "stop": {"steps": 3},
            "search": {"space": {"optimizer.lr": {"uniform": [0.1, 0.2]}}, "metric": "valdation_loss"},
        }
    )
    assert isinstance(recipe, TuneRecipe)
    with pytest.raises(RecipeError, match=r"search.metric = 'valdation_loss': choose one of validation_loss"):
        stage.refuse_problems(recipe)
