"""Progress: lines for people, JSON for programs."""

import io
import json

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


def test_time_left_is_counted_from_the_first_update(monkeypatch) -> None:
    """Starting engines is not work: ten seconds a step after a minute's start means ten seconds a step."""
    from manta import progress as module

    clock = iter([10.0, 70.0, 80.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    progress = Progress(as_json=True, stream=stream)
    for done in (0, 1, 2):
        progress.update(done, 5, "steps")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["seconds_left"] for line in lines] == [None, 240.0, 105.0]
