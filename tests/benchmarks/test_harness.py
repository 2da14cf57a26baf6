"""The harness measures what it says: processes that come and go, runs that fail, rows that replace each other."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import harness, report
from benchmarks.report import Goal

BURN = "import time\nend = time.process_time() + 0.6\nwhile time.process_time() < end: pass\nprint('{\"burnt\": 0.6}')"


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_window_counts_this_process_and_its_children() -> None:
    child = subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.DEVNULL)
    with harness.measure() as window:
        burn(0.3)
        child.wait()
    assert 0.6 < window.cpu_s < 1.8
    assert window.wall_s > 0.25
    assert window.peak_bytes > 10**6


def test_a_window_leaves_out_what_was_before() -> None:
    burn(0.5)
    with harness.measure() as window:
        pass
    assert window.cpu_s < 0.3


def test_a_command_reports_its_figures_and_all_its_time() -> None:
    run = harness.run_once(harness.command([sys.executable, "-c", BURN]))
    assert run.error is None
    assert run.value("burnt") == 0.6
    assert run.value("cpu_s") >= 0.6


def test_a_failed_run_keeps_its_reason() -> None:
    run = harness.run_once(harness.command([sys.executable, "-c", "raise SystemExit('no luck')"]))
    assert "exit code 1: no luck" in (run.error or "")
    slow = harness.run_once(harness.command([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.5))
    assert "took over 0.5 s" in (slow.error or "")


def test_an_ended_benchmark_leaves_no_competitor(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = f"""
import sys
sys.path.insert(0, {str(harness.ROOT / "benchmarks")!r})
import harness
with harness.bench("probe", "question?", []) as bench:
    sleep = "import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(60)"
    bench.alternate({{"sleep": harness.command([sys.executable, "-c", sleep])}}, repeats=1)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(30) != 0
    assert not psutil.pid_exists(int(pid.read_text()))


def test_ratios_pair_neighbours_and_leave_failures_out() -> None:
    def run(speed: float, error: str | None = None) -> harness.Run:
        return harness.Run(1.0, 1.0, 1, {"speed": speed}, error)

    ours, theirs = [run(10), run(20), run(30)], [run(5), run(5, "broke off"), run(10)]
    assert harness.pair_ratios(ours, theirs, "speed") == [2.0, 3.0]
    with pytest.raises(KeyError, match="it has speed"):
        ours[0].value("weight")


def test_competitors_alternate() -> None:
    order: list[str] = []
    bench = harness.Bench("probe", "question", quick=True, record=False, repeats=None)
    taken = bench.alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=2, warmup=1)
    assert order == ["a", "b"] * 3
    assert {name: len(runs) for name, runs in taken.items()} == {"a": 2, "b": 2}


def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: bool) -> dict[str, Any]:
    monkeypatch.setattr(harness, "SCRATCH", tmp_path)
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    monkeypatch.setattr(harness, "_commit", lambda: ("0" * 40, False))
    with harness.bench("probe", "How fast?\n\nMore.", ["--quick"]) as bench:
        bench.figure("ratio", [1.0, 3.0, 2.0], unit="x")
        if fail:
            raise RuntimeError("the engine did not start")
    rows: list[dict[str, Any]] = json.loads((tmp_path / "probe.json").read_text())
    assert len(rows) == 1
    return rows[0]


def test_a_row_says_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = finished(tmp_path, monkeypatch, fail=False)
    assert {"hardware", "versions", "commit", "dirty", "command", "date", "settings", "runs"} <= row.keys()
    assert row["question"] == "How fast?"
    assert (row["figures"]["ratio"]["median"], row["figures"]["ratio"]["min"]) == (2.0, 1.0)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"ratio": 2.0}
    finished(tmp_path, monkeypatch, fail=False)  # the same settings on the same machine: replaced, not added


def test_a_benchmark_that_broke_off_stays_as_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1"):
        finished(tmp_path, monkeypatch, fail=True)
    row = json.loads((tmp_path / "probe.json").read_text())[0]
    assert row["error"] == "RuntimeError: the engine did not start"
    assert row["figures"]["ratio"]["median"] == 2.0
    assert "did not start" in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]


def a_row(**changes: Any) -> dict[str, Any]:
    figures = {"vs_bare": {"median": 0.9, "min": 0.8, "max": 1.0, "unit": "x", "values": [0.8, 0.9, 1.0], "note": ""}}
    row: dict[str, Any] = {
        "benchmark": "train",
        "question": "How fast?",
        "figures": figures,
        "error": None,
        "settings": {"quick": True},
    }
    row |= {
        "command": "python benchmarks/train.py --quick",
        "date": "2026-01-02T03:04:05",
        "commit": "abcdef0123",
        "dirty": True,
    }
    return row | {"hardware": {"cores": 2, "cpu": "A | B", "gpus": []}} | changes


def test_the_table_shows_figures_and_failures() -> None:
    text = report.table([a_row(), a_row(figures={}, error="out of memory")])
    told = "| How fast? (quick)<br>`python benchmarks/train.py --quick` | {} |"
    assert f"{told.format('failed | | out of memory')} 2 cores of A \\| B; abcdef012+; 2026-01-02 |" in text
    assert "vs_bare" not in text, "an older row of the same benchmark and mode is not shown"
    text = report.table([a_row(), a_row(settings={"quick": False})])
    assert text.count("| `vs_bare` | 0.9x | 0.8 to 1 |") == 2


def test_claims_are_of_the_newest_row_and_say_what_falls_short() -> None:
    older = a_row(figures={"vs_bare": {"median": 0.99, "min": 0.99, "max": 0.99, "unit": "x", "values": [0.99]}})
    least, most = Goal("train", "vs_bare", "speed", least=0.97), Goal("train", "vs_bare", "speed", most=0.97)
    told, unknown = Goal("train", "vs_bare", "speed"), Goal("train", "other", "never measured")
    lines = report.claims([older, a_row()], [least, most, told, unknown]).splitlines()[2:5]
    where = "2 cores of A \\| B; abcdef012+; 2026-01-02 |"
    assert lines == [
        f"| speed | 0.9x (0.8 to 1) | at least 0.97 | **short** | {where}",
        f"| speed | 0.9x (0.8 to 1) | at most 0.97 | met | {where}",
        f"| speed | 0.9x (0.8 to 1) |  |  | {where}",
    ]
    assert "never measured" not in report.claims([a_row()], [least, unknown])
    assert "met" in report.claims([older], [least])


def test_the_readme_keeps_everything_around_the_table() -> None:
    before = f"# Title\n{report.BEGIN}\nold\n{report.END}\nend\n"
    goals = [Goal("train", "vs_bare", "speed")]
    after = report.updated(before, [a_row()], goals)
    assert after.startswith(f"# Title\n{report.BEGIN}\n| what") and after.endswith(f"{report.END}\nend\n")
    assert report.updated(after, [a_row()], goals) == after
    with pytest.raises(ValueError, match="results:begin"):
        report.updated("# no markers", [])
