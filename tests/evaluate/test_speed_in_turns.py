"""Speed beside the base: turns that alternate, medians, ratios of each round, by a clock and models of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manta import isolate
from manta.artifact import Resolved
from manta.errors import InputError, StageFailed
from manta.evaluate import speed
from manta.evaluate.speed import Seconds, Turn
from manta.sections.speed import Speed
from tests.evaluate.test_latency import saved

SETTINGS = Speed(batches=[1, 4], prompt_tokens=10, new_tokens=11, rounds=3)


def turn(first: float, whole: float, cpu: float = 1.0) -> Turn:
    """Seconds of batches 1 and 4, of which 4 takes twice as long; `cpu` seconds of work in each second."""
    return {
        str(batch): {
            "first": Seconds(times * first, times * first * cpu),
            "whole": Seconds(times * whole, times * whole * cpu),
        }
        for batch, times in ((1, 1), (4, 2))
    }


def test_a_turn_asks_each_batch_for_its_first_token_and_then_for_all() -> None:
    asked: list[tuple[int, int]] = []
    moment = Seconds(0.0, 0.0)

    def answer(rows: Any, count: int) -> None:
        nonlocal moment
        asked.append((len(rows), count))
        moment = Seconds(moment.wall + len(rows) * count, moment.cpu + count)

    rows = [[1]] * 4
    found = speed.timed(answer, rows, [1, 4], {"first": 1, "whole": 3}, lambda: moment)
    assert asked == [(1, 1), (1, 3), (4, 1), (4, 3)]
    assert found == {"1": {"first": (1, 1), "whole": (3, 3)}, "4": {"first": (4, 1), "whole": (12, 3)}}


def test_models_take_turns_and_the_first_ones_are_not_counted() -> None:
    order: list[str] = []
    asks = {name: lambda method, name=name: order.append(name) or {"turn": len(order)} for name in ("base", "model")}
    notes: list[str] = []
    found = speed.alternate(asks, 2, notes.append)  # type: ignore[arg-type]
    assert order == ["base", "model"] * 3
    assert found == {"base": [{"turn": 3}, {"turn": 5}], "model": [{"turn": 4}, {"turn": 6}]}
    assert notes == ["speed: round 1 of 2", "speed: round 2 of 2"]


def test_figures_by_hand() -> None:
    """Ten tokens after the first take 1, 2 and 5 s: the median counts, whatever the slowest was."""
    found = speed.figures([turn(0.1, 1.1), turn(0.2, 2.2), turn(0.3, 5.3)], SETTINGS)
    assert found == pytest.approx(
        {
            "tokens_per_second_1": 5.0,
            "tokens_per_cpu_second_1": 5.0,
            "tokens_per_second_4": 10.0,
            "tokens_per_cpu_second_4": 10.0,
            "first_token_ms": 200.0,
            "prefill_tokens_per_second": 40 / 0.4,
            "prefill_tokens_per_cpu_second": 40 / 0.4,
        }
    )


def test_models_with_heads_answer_requests() -> None:
    turns = [{batch: {"first": parts["first"]} for batch, parts in turn(0.5, 1.0).items()}]
    found = speed.figures(turns, SETTINGS)
    assert found["requests_per_second_1"] == pytest.approx(2.0)
    assert found["requests_per_second_4"] == pytest.approx(4.0)
    assert not [name for name in found if "token" in name]


def kept(model: list[Turn], base: list[Turn]) -> dict[str, Any]:
    usage = {"peak_memory_bytes": 7, "cpu_seconds": 1.0, "weight_bytes": 5}
    return json.loads(json.dumps({"turns": {"model": model, "base": base}, "usage": {"model": usage, "base": usage}}))


def added(model: list[Turn], base: list[Turn]) -> dict[str, Any]:
    report: dict[str, Any] = {"figures": {}, "intervals": {}}
    speed.add(report, kept(model, base), SETTINGS, seed=0)
    return report


def test_a_disturbance_of_both_models_leaves_their_ratio_alone() -> None:
    base = [turn(0.1, 1.1), turn(0.1, 1.1), turn(0.3, 3.3)]  # the third round had a third of the processor
    model = [turn(0.1, 0.6), turn(0.1, 0.6), turn(0.3, 1.8)]
    report = added(model, base)
    assert report["figures"]["speedup_1"] == pytest.approx(2.0)
    assert report["intervals"]["speedup_1"] == pytest.approx((2.0, 2.0))
    assert report["figures"]["base_tokens_per_second_1"] == pytest.approx(10.0)
    assert report["figures"]["tokens_per_second_1"] == pytest.approx(20.0)
    assert report["figures"]["base_peak_memory_bytes"] == 7


def test_an_interval_is_as_wide_as_the_rounds_differ() -> None:
    base = [turn(0.1, 1.1)] * 3
    model = [turn(0.1, 1.1), turn(0.1, 0.6), turn(0.1, 0.35)]  # 1, 2 and 4 times as quick
    report = added(model, base)
    assert report["figures"]["speedup_1"] == pytest.approx(2.0)
    low, high = report["intervals"]["speedup_1"]
    assert (low, high) == (pytest.approx(1.0), pytest.approx(4.0))


def test_clocks_that_disagree_are_told() -> None:
    base = [turn(0.1, 1.1)] * 3
    assert speed.disturbed(added([turn(0.1, 0.6)] * 3, base)["figures"]) is None
    model = [turn(0.1, 1.1, cpu=0.5)] * 3  # as long on the wall, in half the work
    told = speed.disturbed(added(model, base)["figures"])
    assert told is not None
    assert "speedup_1 1.00 by wall time, 2.00 by CPU time" in told


def test_too_few_tokens_to_time_are_refused() -> None:
    with pytest.raises(InputError, match=r"evaluate\.speed\.new_tokens = 11.*set evaluate\.speed\.new_tokens higher"):
        speed.rates([turn(1.0, 0.9)], 1, "wall", 11)


def test_a_batch_stands_there_once() -> None:
    with pytest.raises(ValueError, match=r"names one twice"):
        Speed(batches=[1, 1])


class Counting:
    """What a process keeps."""

    def __init__(self, start: int):
        if start < 0:
            raise InputError("starts below 0")
        self.count = start

    def up(self) -> int:
        self.count += 1
        return self.count

    def fall(self) -> None:
        raise ValueError("fell")


@pytest.mark.integration
def test_processes_keep_what_they_made(ray_session: None) -> None:
    calls = [isolate.Call(Counting, (start,), cpus=1) for start in (0, 10, 20)]
    with isolate.kept(calls, "counting") as asks:
        assert [ask("up") for ask in asks] == [1, 11, 21]
        assert [ask("up") for ask in asks] == [2, 12, 22]
    with pytest.raises(StageFailed, match="counting failed: ValueError: fell"), isolate.kept(calls, "counting") as asks:
        asks[0]("fall")
    bad = [isolate.Call(Counting, (-1,), cpus=1)]
    with pytest.raises(InputError, match="starts below 0"), isolate.kept(bad, "counting") as asks:
        asks[0]("up")


@pytest.mark.parametrize("kind", ["decoder", "classifier"])
def test_a_model_takes_its_turn(tmp_path: Path, kind: str) -> None:
    folder = saved(tmp_path, kind)
    source = Resolved("model.source", str(folder), "directory", str(folder), "f", "c")
    settings = Speed(batches=[1, 3], prompt_tokens=8, new_tokens=9, rounds=2)
    loaded = speed.Loaded(source, "transformers", "float32", settings, 0)
    found = loaded.turn()
    assert set(found) == {"1", "3"}
    assert set(found["1"]) == ({"first", "whole"} if kind == "decoder" else {"first"})
    assert all(took.wall > 0 for parts in found.values() for took in parts.values())
    usage = loaded.usage()
    assert usage["peak_memory_bytes"] > usage["weight_bytes"] > 0
    if kind == "decoder":
        assert [len(row) for row in loaded.answer(loaded.rows, 5)] == [5, 5, 5], "whatever ends an answer"
    with pytest.raises(InputError, match=r"25 tokens .* 24 positions .* lower evaluate\.speed\.prompt_tokens"):
        long = Speed(batches=[1], prompt_tokens=16 if kind == "decoder" else 25, new_tokens=9)
        speed.Loaded(source, "transformers", "float32", long, 0)
