"""What a run does about a bad step and when it ends: every rank decides alike, and a restart remembers."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from manta import recipe as recipes
from manta.errors import StageFailed
from manta.schema import PretrainRecipe
from manta.storage import Folder
from manta.train import checkpoint, stability
from manta.train.course import BESIDE, Course, RolledBack


def make(folder: Path, state: checkpoint.State | None = None, **sections: Any) -> Course:
    raw = {
        "kind": "pretrain",
        "name": "x",
        "data": {"shards": "s"},
        "batch": {"samples": 8},
        "stop": {"steps": 9},
        **sections,
    }
    recipe = recipes.validate(raw)
    assert isinstance(recipe, PretrainRecipe)
    return Course(recipe, Folder(folder), state)


def step(course: Course, number: int, loss: float, norm: float = 1.0, known: bool = True, rank: int = 0) -> str:
    course.judge(number, loss, norm if known else None)
    return course.settle(number, loss, norm, rank, lambda: None)


def test_a_loss_that_is_no_number_stops_the_run_with_remedies(tmp_path: Path) -> None:
    course = make(tmp_path)
    assert step(course, 0, 5.0) == ""
    with pytest.raises(
        StageFailed, match=r"the loss became nan at step 1: lower optimizer\.lr .*stability\.policy=skip"
    ):
        step(course, 1, math.nan)


def test_a_skipped_update_is_not_made_and_counted(tmp_path: Path) -> None:
    course = make(tmp_path, stability={"policy": "skip"})
    assert course.judge(0, 5.0, 1.0)
    assert not course.judge(1, math.inf, None)
    assert "left out" in course.settle(1, math.inf, 1.0, 0, lambda: None)
    assert step(course, 2, 4.9) == ""
    assert course.figures() == {"updates_left_out": 1}


def test_a_norm_that_only_deepspeed_knew_is_judged_afterwards(tmp_path: Path) -> None:
    course = make(tmp_path, stability={"policy": "skip"})
    assert "norm became inf" in step(course, 0, 5.0, norm=math.inf, known=False)
    assert course.figures() == {"updates_left_out": 1}


def test_a_roll_back_leaves_word_for_the_attempt_that_follows(tmp_path: Path) -> None:
    settings = {"stability": {"policy": "roll_back"}}
    course = make(tmp_path, **settings)
    for number in range(10):
        step(course, number, 5.0)
    saved = checkpoint.State(5, 1, 0, 0, **make(tmp_path).state())
    order: list[str] = []
    course.judge(10, math.nan, None)
    with pytest.raises(RolledBack, match="back to the newest checkpoint"):
        course.settle(10, math.nan, 1.0, 0, lambda: order.append(str(Folder(tmp_path).exists(BESIDE))))
    assert order == ["True"], "the file stands before the ranks part"
    other = make(tmp_path / "other", **settings)
    other.judge(10, math.nan, None)
    with pytest.raises(RolledBack):
        other.settle(10, math.nan, 1.0, 1, lambda: None)
    assert not Folder(tmp_path / "other").exists(BESIDE), "one rank writes it"
    again = make(tmp_path, saved, **settings)
    assert "passed over" in step(again, 10, 4.0)
    assert "passed over" in step(again, 9, 4.0)
    assert step(again, 8, 4.0) == ""


def test_the_state_travels_with_the_checkpoint(tmp_path: Path) -> None:
    settings = {"early_stop": {"patience": 2}, "stability": {"policy": "skip"}}
    course = make(tmp_path, **settings)
    step(course, 0, 5.0)
    assert course.validated(1, {"loss": 3.0})
    assert not course.validated(2, {"loss": 3.1})
    kept = checkpoint.State(2, 1, 0, 0, **course.state())
    resumed = make(tmp_path, kept, **settings)
    assert resumed.state() == course.state() and resumed.spared == 1 and not resumed.exhausted
    assert resumed.state()["stability"] == asdict(stability.State(losses=[5.0]))
    assert not resumed.validated(3, {"loss": 3.2})
    assert resumed.exhausted and resumed.figures() == {"best_loss": 3.0, "best_step": 1}


def test_without_early_stop_nothing_is_spared(tmp_path: Path) -> None:
    course = make(tmp_path)
    assert not course.validated(1, {"loss": 3.0})
    assert course.spared is None and not course.exhausted and course.figures() == {}
