"""The page of a sweep, and what status and comparison say of one, over folders that are made up."""

from __future__ import annotations

import random
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from manta import artifact as artifacts
from manta.errors import InputError
from manta.report import compare, page, status
from tests.report.made_up_sweep import FIVE, line, write


def written(place: artifacts.Folder) -> str:
    return Path(page.write(place.url)).read_text()


def pictures(text: str) -> dict[str, ElementTree.Element]:
    """The page's pictures by their titles."""
    found = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    return {svg.findtext("title") or "": svg for svg in found}


def test_a_finished_sweep_shows_all_it_found(tmp_path: Path) -> None:
    text = written(write(tmp_path, FIVE))
    assert "Trials: 3 complete, 1 given up, 1 failed." in text
    assert "<h2>The best: trial 003</h2>" in text
    assert "&lt;b&gt;no&lt;/b&gt; memory" in text
    assert "<b>" not in text
    assert "http" not in text
    found = pictures(text)
    kinds = [dot.get("class") for dot in found["history"].iter("circle")]
    assert kinds == ["done", "open", "best", "done"]
    assert len([*found["history"].iter("path")]) == 1, "the failed one"
    assert len([*found["fields of all trials"].iter("polyline")]) == 5
    told = [bar.findtext("title") for bar in found["importance"].iter("rect")]
    assert told == ["optimizer.lr: 75.0%", "adapt.method: 25.0%"]
    curves = found["validation_loss of all trials by step"]
    assert [one.get("class") for one in curves.iter("polyline")] == ["off", "done", "done", "best"]
    rows = re.findall(r"<tr(?: class=best)?><td>(?:<a[^>]*>)?(\d{3})", text)
    assert rows == ["003", "004", "000", "002", "001"], "the best first, then those that did not end well"
    assert 'href="trials/003/report.html"' in text
    assert 'href="trials/002/report.html"' not in text


def test_a_sweep_that_is_not_finished_shows_what_there_is(tmp_path: Path) -> None:
    place = write(tmp_path, [*FIVE, line("005", None, "under way")], finish=False, planned=20)
    text = written(place)
    assert f"not finished: `manta resume {place.url}` carries it on" in text
    assert "6 of at most 20 trials have started: 3 complete, 1 under way, 1 given up, 1 failed." in text
    assert "<h2>The best so far: trial 003</h2>" in text
    assert "Not known: known when it has ended." in text
    with artifacts._lock(place):
        assert "still running" in written(place)


def test_a_sweep_without_a_trial_has_a_page(tmp_path: Path) -> None:
    text = written(write(tmp_path, [], finish=False, planned=4))
    assert "No trial has started." in text


def test_several_objectives_show_their_pareto_set(tmp_path: Path) -> None:
    figures = [(3.0, 1e6), (2.0, 3e6), (2.5, 2e6), (2.6, 2.5e6), (1.0, 9e6)]
    trials = [line(f"{n:03d}", loss) for n, (loss, _) in enumerate(figures)]
    for one, (_, size) in zip(trials, figures, strict=True):
        one["figures"]["model_bytes"] = size
    limits = {"model_bytes": {"at_most": 5e6}}
    objectives = {"validation_loss": "min", "model_bytes": "min"}
    text = written(write(tmp_path, trials, objectives=objectives, constraints=limits))
    assert re.findall(r"<li>trial (\d+)", text) == ["001", "002", "000"], "003 is beaten by 002, 004 is too large"
    picture = pictures(text)["validation_loss by model_bytes"]
    assert [dot.get("class") for dot in picture.iter("circle")] == ["front", "front", "front", "done", "open"]
    assert [one.get("class") for one in picture.iter("line")][2:] == ["limit"]


def test_hundreds_of_trials_stay_readable_and_small(tmp_path: Path) -> None:
    chance = random.Random(0)
    trials = []
    for number in range(300):
        overrides = {
            "optimizer.lr": 10 ** chance.uniform(-4, -2),
            "adapt.method": "lora",
            "adapt.rank": chance.randint(4, 12),
        }
        state = chance.choice(["complete", "given up", "failed"])
        step = 3 if state == "given up" else None
        loss = None if state == "failed" else chance.uniform(1, 5)
        trials.append(line(f"{number:03d}", loss, state, overrides=overrides, step=step, reason="no memory " * 50))
    place = write(tmp_path, trials, points=200)
    text = written(place)
    assert len(text) < 1_000_000
    found = pictures(text)
    assert len([*found["fields of all trials"].iter("polyline")]) == 300
    drawn = [one.get("points", "").split() for one in found["validation_loss of all trials by step"].iter("polyline")]
    assert 10_000 < sum(map(len, drawn)) <= 12_000
    numbers = [float(word) for one in drawn for place in one for word in place.split(",")]
    assert 0 <= min(numbers) <= max(numbers) <= 900


def test_repeats_have_curves_of_their_own(tmp_path: Path) -> None:
    trials = [line("000", 3.0, spread={"validation_loss": 0.25}), line("001", 2.0)]
    text = written(write(tmp_path, trials, repeats=2))
    curves = pictures(text)["validation_loss of all trials by step"]
    told = sorted(one.findtext("title") or "" for one in curves.iter("polyline"))
    assert told == [f"trial 00{n}, run 00{n}-{repeat} (complete)" for n in range(2) for repeat in range(2)]
    assert "3 ± 0.25" in text


def test_trials_that_were_given_up_are_not_broken(tmp_path: Path) -> None:
    place = write(tmp_path, FIVE)
    [above] = status.rows([str(tmp_path)])
    assert above["kind"] == "tune", "trials are shown where their sweep is named"
    rows = {row["name"]: row["state"] for row in status.rows([place.url])}
    assert rows == {
        "found": "complete", "000": "complete", "001": "failed", "002": "given up", "003": "complete", "004": "complete",
    }  # fmt: skip
    assert "given up at step 3 by its sweep" in written(place / "trials/002")
    assert "failed: &lt;b&gt;no" in written(place / "trials/001")
    with pytest.raises(InputError, match="was given up by its sweep"):
        compare.text(f"{place.url}/trials/000", f"{place.url}/trials/002")
    with pytest.raises(InputError, match=r"failed .*no.* memory"):
        compare.text(f"{place.url}/trials/001", f"{place.url}/trials/000")


def test_status_of_a_sweep_that_is_not_finished_says_how_far_it_is(tmp_path: Path) -> None:
    place = write(tmp_path, [*FIVE, line("005", None, "under way")], finish=False)
    rows = {row["name"]: row for row in status.rows([place.url])}
    assert rows["found"]["state"] == "unfinished"
    assert rows["found"]["figures"] == "3 complete, 1 under way, 1 given up, 1 failed"
    assert rows["005"]["state"] == "unfinished"


def test_two_sweeps_are_compared_by_their_winners(tmp_path: Path) -> None:
    places = [write(tmp_path / name, trials).url for name, trials in (("a", FIVE), ("b", FIVE[:1]))]
    lines = compare.text(*places).splitlines()
    assert lines[-2].startswith(
        "best of A: trial 003 (optimizer.lr 0.01, adapt.method lora, adapt.rank 8): validation_loss 2"
    )
    assert lines[-1] == "best of B: trial 000 (optimizer.lr 0.001, adapt.method full): validation_loss 3"
