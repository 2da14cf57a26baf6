"""Progress: lines for people, JSON for programs."""

import io
import json
from typing import Any

import pytest

from manta import progress as module
from manta.progress import Progress, format_figure


def test_json_lines_carry_stage_and_figures() -> None:
    stream = io.StringIO()
    progress = Progress(as_json=True, stream=stream)
    progress.begin("pretrain base", kind="pretrain")
    progress.update(10, 10, "steps", loss=2.5)
    progress.note("hello")
    progress.end(metrics={"a": 1})
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["begin", "progress", "note", "end"]
    assert events[1] | {"done": 10, "total": 10, "unit": "steps", "loss": 2.5, "stage": "pretrain base"} == events[1]


def test_a_log_gets_few_lines_and_always_the_last() -> None:
    stream = io.StringIO()
    progress = Progress(stream=stream)
    progress.begin("prepare x")
    for done in range(1, 1001):
        progress.update(done, 1000, "documents", tokens_per_s=12345.678)
    lines = stream.getvalue().splitlines()
    assert 1 <= len(lines) <= 3
    assert lines[-1] == "prepare x: 1,000/1,000 documents  tokens per s 12,346"


def test_figures_are_short() -> None:
    assert [format_figure(value) for value in (1234567, 0.123456, 98765.4, "gptq", True)] == [
        "1,234,567",
        "0.1235",
        "98,765",
        "gptq",
        "yes",
    ]


def test_time_left_is_counted_from_the_first_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting engines is not work: ten seconds a step after a minute's start means ten seconds a step."""
    clock = iter([10.0, 70.0, 80.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    progress = Progress(as_json=True, stream=stream)
    for done in (0, 1, 2):
        progress.update(done, 5, "steps")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["seconds_left"] for line in lines] == [None, 240.0, 105.0]


class Terminal(io.StringIO):
    """A stream that says it is a terminal; it has no size, so 80 columns of 24 lines are taken."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_draws_a_table_over_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 20.0, 30.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    stream = Terminal()
    progress = Progress(stream=stream)
    runs: list[dict[str, Any]] = [
        {"run": "a", "done": 1, "total": 4, "unit": "steps", "seconds_left": 90.0},
        {"run": "b", "note": "x" * 99},
    ]
    progress.update(1, 9, "runs", runs=runs)
    assert stream.getvalue().split("\n") == [
        "\r\x1b[K: 1/9 runs",
        "  run  done       left   note",
        "  a    1/4 steps  1m30s",
        "  b                      " + "x" * 54,
    ]
    stream.truncate(0)
    stream.seek(0)
    progress.update(2, 9, "runs", runs=runs[:1])
    assert stream.getvalue().startswith("\r\x1b[3A\x1b[J: 2/9 runs"), "back to the first of four lines"
    stream.truncate(0)
    stream.seek(0)
    progress.note("told")
    assert stream.getvalue() == "\x1b[2A\r\n\x1b[Jtold\n", "the line stays, the table goes"


def test_a_table_never_grows_beyond_the_terminal() -> None:
    stream = Terminal()
    Progress(stream=stream).update(1, 9, "runs", runs=[{"run": str(number)} for number in range(50)])
    lines = stream.getvalue().split("\n")
    assert len(lines) == 23
    assert lines[-1] == "  and 30 more", "a line, the names, 20 runs and this one"


def test_without_runs_a_terminal_has_one_line() -> None:
    stream = Terminal()
    Progress(stream=stream).update(1, 9, "runs", runs=[])
    assert stream.getvalue() == "\r\x1b[K: 1/9 runs"
