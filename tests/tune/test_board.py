"""What a person sees of trials that run at once: their states, how far they are, and what the sweep has spent."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from manta.progress import Progress
from manta.tune import board
from tests.test_progress import Terminal

BEGIN: dict[str, Any] = {
    "done": 0.0,
    "total": None,
    "unit": "",
    "state": "starts",
    "overrides": {"optimizer.lr": 0.003},
}


class Mailbox:
    """What a run sends goes straight to a board."""

    def __init__(self, shown: board.Board):
        self.put, self._shown = self, shown

    def remote(self, message: dict[str, Any]) -> None:
        self._shown.update(**message["update"])


def keeper(**more: Any) -> dict[str, Any]:
    return {"done": 1, "total": 4, "unit": "trials", "sweep": True, **more}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The board's time, to be set by the test; progress has its own."""
    now = [100.0]
    monkeypatch.setattr(board.time, "monotonic", lambda: now[0])
    return now


def rows(shown: board.Board) -> list[dict[str, Any]]:
    return shown._rows()


def test_a_run_is_followed_from_its_start_to_its_end(clock: list[float]) -> None:
    shown = board.Board(Progress(quiet=True))
    shown.update(**keeper(under_way={"003": {}, "004": {}}))
    run = board.TrialProgress("003", Mailbox(shown), {"optimizer.lr": 0.003})
    run.begin("finetune 003", kind="finetune")
    assert rows(shown) == [{"trial": "003", "state": "starts", "seconds_left": None, "lr": 0.003}]
    for seconds, step in ((160.0, 10), (170.0, 30)):
        clock[0] = seconds
        run.update(step, 100, "steps", loss=2.5)
    # Twenty steps in ten seconds, after a minute's start that says nothing: seventy more take 35 seconds.
    assert rows(shown) == [
        {"trial": "003", "state": "trains", "done": 30, "total": 100, "unit": "steps", "loss": 2.5, "seconds_left": 35.0, "lr": 0.003}
    ]  # fmt: skip
    run.left("halted")
    assert rows(shown)[0]["state"] == "held"
    shown.update(**keeper(under_way={"003": {"validation_loss": 2.25}, "004": {}}))
    assert rows(shown)[0]["validation_loss"] == 2.25
    run.begin("finetune 003", kind="finetune")
    run.left("complete")
    assert rows(shown) == []


def test_a_trial_that_has_ended_is_shown_no_more_whatever_comes_late(clock: list[float]) -> None:
    shown = board.Board(Progress(quiet=True))
    shown.update(**keeper(under_way={"003": {}}))
    for run in ("003-0", "003-1"):
        shown.update(run=run, **BEGIN)
    assert [row["trial"] for row in rows(shown)] == ["003-0", "003-1"], "repeats belong to their trial"
    shown.update(**keeper(under_way={"004": {}}))
    shown.update(5, 9, "steps", run="003-1", loss=1.0)
    assert rows(shown) == []


def test_a_log_gets_a_line_with_what_is_spent() -> None:
    stream = io.StringIO()
    shown = board.Board(Progress(stream=stream))
    spent: dict[str, Any] = {"worker_hours": {"spent": 1.25, "budget": 8.0}}
    shown.update(**keeper(done=4, best=2.0, spent=spent, under_way={}))
    assert stream.getvalue() == ": 4/4 trials  best 2  worker hours 1.25 of 8\n"


def test_programs_get_numbers() -> None:
    stream = io.StringIO()
    shown = board.Board(Progress(as_json=True, stream=stream))
    spent: dict[str, Any] = {"hours": {"spent": 0.5, "budget": 2.0}}
    shown.update(run="003", **BEGIN)
    shown.update(**keeper(spent=spent, under_way={"003": {}}))
    event = json.loads(stream.getvalue())
    assert event["spent"] == spent
    assert event["runs"] == [{"trial": "003", "state": "starts", "seconds_left": None, "lr": 0.003}]


def test_a_terminal_shows_a_table_below_the_line(clock: list[float]) -> None:
    stream = Terminal()
    shown = board.Board(Progress(stream=stream))
    shown.update(run="003", **BEGIN)
    shown.update(run="004", done=30, total=100, unit="steps", loss=2.5)
    shown.update(**keeper(best=2.0, under_way={"003": {}, "004": {}}))
    lines = stream.getvalue().replace("\r\x1b[K", "").split("\n")
    assert lines[0] == ": 1/4 trials  best 2"
    assert [text.split() for text in lines[1:]] == [
        ["trial", "state", "left", "lr", "done", "loss"],
        ["003", "starts", "0.003"],
        ["004", "trains", "30/100", "steps", "2.5"],
    ]


def test_names_are_as_short_as_they_can_be_told_apart() -> None:
    paths = ["optimizer.lr", "adapt.rank", "after.compress.compress.rank", "seed"]
    assert board.short_names(paths) == {
        "optimizer.lr": "lr",
        "adapt.rank": "adapt.rank",
        "after.compress.compress.rank": "compress.rank",
        "seed": "seed",
    }
