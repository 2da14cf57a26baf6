"""The keeper of a sweep, driven without Ray: who runs, who waits, what is remembered, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manta.schema import TuneRecipe
from manta.tune import budget, keeper
from tests.tune import faked
from tests.tune.faked import Cluster, Task
from tests.tune.test_space import tune

ASHA = {"method": "asha", "first_step": 2, "factor": 2}
LATENCY = {"latency": {"requests": 5}}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    faked.quick(monkeypatch)


def sweep(trials: int = 6, after: dict[str, Any] | None = None, **search: Any) -> TuneRecipe:
    """Trials of 8 steps over the learning rate."""
    made = tune({"optimizer.lr": {"loguniform": [1e-4, 1e-1]}}, trials, 0, search, stop={"steps": 8})
    return TuneRecipe.model_validate(made.model_dump() | {"after": after or {}})


# --- nobody waits for ever -------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at_once=st.integers(1, 4),
    in_flight=st.integers(1, 6),
    chance=st.integers(0, 2**16),
    repeats=st.integers(1, 2),
    measured=st.booleans(),
    early=st.booleans(),
)
def test_every_interleaving_ends_with_the_same_table(
    tmp_path_factory: pytest.TempPathFactory,
    at_once: int,
    in_flight: int,
    chance: int,
    repeats: int,
    measured: bool,
    early: bool,
) -> None:
    recipe = sweep(
        5, LATENCY if measured else None, in_flight=in_flight, repeats=repeats, early=ASHA if early else None
    )

    def played(chance: int, at_once: int) -> tuple[Cluster, list[dict[str, Any]]]:
        made = Cluster(recipe, tmp_path_factory.mktemp("played"), at_once, chance)
        return made, made.run()

    one, expected = played(0, 1)
    other, found = played(chance, at_once)
    assert found == expected
    assert len(found) == 5
    assert other.trained == one.trained, "no step is trained twice, and none that was given up"
    assert not any(other.crowds), "a model is measured when nothing else of the sweep has a process"


def test_a_run_at_a_mark_makes_room_where_one_is_wanted(tmp_path: Path) -> None:
    """One process at a time: the first trial halts at its second mark, for its answer depends on the other one."""
    recipe = sweep(2, in_flight=2, early={"method": "median", "first_step": 2, "every_steps": 4, "after_trials": 1})
    cluster = Cluster(recipe, tmp_path, at_once=1)
    lines = cluster.run()
    assert cluster.launched == ["000", "001", "000"], "at step 6 its turn comes after the second one's step 2"
    assert lines[0]["status"] == "complete"
    assert cluster.trained == {"000": 8, "001": lines[1]["step"] or 8}, "what halted went on from where it stood"


def test_a_run_at_a_mark_leaves_for_one_that_must_be_measured(tmp_path: Path) -> None:
    """Trial 2 takes the place of trial 1, which fails; its mark is after the end of trial 0, which is not known before
    trial 0 is measured, and that is done alone."""
    early = {"method": "median", "first_step": 6, "every_steps": 10, "after_trials": 1}
    recipe = sweep(3, LATENCY, in_flight=2, early=early)
    launched, tables = [], []
    for chance in range(12):
        cluster = Cluster(recipe, tmp_path / str(chance), ending=failing("001", "out of memory"), chance=chance)
        tables.append(cluster.run())
        launched.append(cluster.launched)
        assert not any(cluster.crowds)
    assert all(table == tables[0] for table in tables)
    assert ["000", "001", "002", "000", "002", "002"] in launched, "it left, went on, and was measured itself"


def test_a_resumed_sweep_repeats_nothing(tmp_path: Path) -> None:
    recipe = sweep(6, early=ASHA, repeats=2)
    whole = Cluster(recipe, tmp_path / "whole").run()
    broken = Cluster(recipe, tmp_path / "broken")
    broken.run(launches=5)
    trained = sum(broken.trained.values())
    broken.attempt()
    assert broken.run() == whole
    assert sum(broken.trained.values()) > trained
    assert max(broken.trained.values()) <= 8


# --- what goes wrong -------------------------------------------------------------------------------------------------


def failing(run: str, reason: str, status: str = "failed") -> Any:
    return lambda task: (status, reason) if task["run"] == run else None


@pytest.mark.parametrize("reason", ["out of memory: lower resources.micro_batch", "the loss is not finite at step 3"])
def test_a_failed_trial_has_its_reason_and_the_others_go_on(tmp_path: Path, reason: str) -> None:
    cluster = Cluster(sweep(4), tmp_path, ending=failing("001", reason))
    lines = cluster.run()
    assert [line["status"] for line in lines] == ["complete", "failed", "complete", "complete"]
    assert lines[1]["reason"] == reason
    assert faked.failures(tmp_path) == {"001": reason}
    again = Cluster(sweep(4), tmp_path)
    assert again.run() == lines
    assert again.launched == [], "a failure is remembered, and what is complete as well"
    (tmp_path / "failures/001.json").unlink()
    retried = Cluster(sweep(4), tmp_path)
    assert [line["status"] for line in retried.run()] == ["complete"] * 4
    assert retried.launched == ["001"]


def test_a_loss_that_is_not_finite_at_the_end_is_a_failure(tmp_path: Path) -> None:
    def loss(task: Task, step: float) -> float:
        return float("nan") if "001" in task["run"] else faked.loss_of(task, step)

    lines = Cluster(sweep(3), tmp_path, loss=loss).run()
    assert lines[1]["status"] == "failed"
    assert lines[1]["reason"] == "validation_loss is nan: the training diverged"


def test_a_loss_that_is_not_finite_at_a_mark_is_a_failure(tmp_path: Path) -> None:
    def loss(task: Task, step: float) -> float:
        return float("nan") if task["run"] == "000" else faked.loss_of(task, step)

    cluster = Cluster(sweep(3, early=ASHA), tmp_path, loss=loss)
    lines = cluster.run()
    assert lines[0]["status"] == "failed"
    assert "validation_loss is nan in a validation" in lines[0]["reason"]
    assert cluster.trained["000"] == 2, "it is not trained on"


def test_one_of_two_repeats_fails_the_trial(tmp_path: Path) -> None:
    lines = Cluster(sweep(3, repeats=2), tmp_path, ending=failing("001-1", "out of memory")).run()
    assert [line["status"] for line in lines] == ["complete", "failed", "complete"]
    assert lines[1]["reason"] == "out of memory"
    assert faked.failures(tmp_path) == {"001-1": "out of memory"}


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_process_that_dies_is_started_again_so_many_times(tmp_path: Path, repeats: int) -> None:
    name = "001" if repeats == 1 else "001-1"
    cluster = Cluster(sweep(3, repeats=repeats), tmp_path, ending=failing(name, "its node left", "died"))
    lines = cluster.run()
    assert cluster.launched.count(name) == 1 + 3, "resources.max_restarts is 3"
    assert lines[1]["reason"] == "its process died 4 times, the last time: its node left"
    assert sum("it is started again" in note for note in cluster.mailbox.notes) == 3


def test_a_process_that_dies_once_costs_nothing(tmp_path: Path) -> None:
    deaths = ["once"]

    def ending(task: Task) -> Any:
        return ("died", deaths.pop()) if task["run"] == "001" and deaths else None

    assert (
        Cluster(sweep(4, early=ASHA), tmp_path / "a", ending=ending).run()
        == Cluster(sweep(4, early=ASHA), tmp_path / "b").run()
    )


def test_a_full_disk_ends_the_sweep_which_can_be_resumed(tmp_path: Path) -> None:
    cluster = Cluster(sweep(6), tmp_path, ending=failing("002", "no space left on the disk", "broken"))
    lines = cluster.run()
    assert asyncio.run(cluster.keeper.table())["broken"] == "no space left on the disk"
    assert lines[2]["status"] == "under way", "it is not the trial's fault"
    assert not (tmp_path / "failures").exists()
    assert "005" not in cluster.launched
    again = Cluster(sweep(6), tmp_path)
    assert [line["status"] for line in again.run()] == ["complete"] * 6


# --- repeats, budgets, prices ----------------------------------------------------------------------------------------


def test_repeats_are_other_seeds_whose_mean_and_spread_count(tmp_path: Path) -> None:
    [line, _] = Cluster(sweep(2, repeats=3), tmp_path).run()
    rate = line["overrides"]["optimizer.lr"]
    values = [abs(rate - 3e-3) * 100 + 1 / 9 + 0.01 * seed for seed in range(3)]
    assert line["figures"]["validation_loss"] == pytest.approx(statistics.mean(values))
    assert line["spread"]["validation_loss"] == pytest.approx(0.01), "of 0, 0.01, 0.02"
    assert line["spread"]["train_seconds"] == 0
    [single, _] = Cluster(sweep(2), tmp_path / "single").run()
    assert "spread" not in single


def clocked(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """A clock that goes on by so many seconds with each look."""
    now = [0.0]

    def look() -> float:
        now[0] += seconds
        return now[0]

    monkeypatch.setattr(keeper, "monotonic", look)
    monkeypatch.setattr(budget, "monotonic", look)


@pytest.mark.parametrize(("repeats", "limit"), [(1, "hours"), (1, "worker_hours"), (2, "hours"), (2, "worker_hours")])
def test_no_trial_starts_after_the_budget_and_a_resumed_sweep_keeps_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeats: int, limit: str
) -> None:
    clocked(monkeypatch, 600.0)
    recipe = sweep(12, in_flight=1, repeats=repeats, budget={limit: 1.0})
    cluster = Cluster(recipe, tmp_path, at_once=1)
    lines = cluster.run()
    assert 1 <= len(lines) < 12
    assert {line["status"] for line in lines} == {"complete"}, "what has started goes on to its end"
    assert asyncio.run(cluster.keeper.table())["out_of_budget"] is True
    again = Cluster(recipe, tmp_path, at_once=1)
    assert again.run() == lines
    assert again.launched == []


def test_a_price_makes_the_cost_a_figure(tmp_path: Path) -> None:
    recipe = sweep(2, price_per_hour=2.5, objectives={"cost": "min"})
    for line in Cluster(recipe, tmp_path).run():
        assert line["figures"]["cost"] == pytest.approx(36 / 3600 * 2.5)


# --- what follows the training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("chance", range(6))
@pytest.mark.parametrize("repeats", [1, 2])
def test_trials_that_differ_only_afterwards_train_once(tmp_path: Path, chance: int, repeats: int) -> None:
    entries = {
        "optimizer.lr": {"choice": [1e-3, 3e-3]},
        "after.compress.compress.quantise.smoothquant": {"choice": [0.3, 0.5, 0.8]},
    }
    raw = tune(entries, 6, 0, {"method": "grid", "repeats": repeats}, stop={"steps": 8}).model_dump()
    after = {"compress": {"compress": {"quantise": {}, "calibration": {"shards": "shards"}}}}
    recipe = TuneRecipe.model_validate(raw | {"after": after | (LATENCY if chance % 2 else {})})
    cluster = Cluster(recipe, tmp_path, at_once=3, chance=chance)
    lines = cluster.run()
    names = ["000", "003"] if repeats == 1 else ["000-0", "000-1", "003-0", "003-1"]
    assert cluster.trained == dict.fromkeys(sorted(cluster.trained), 8)
    assert sorted(cluster.trained) == names
    assert [line.get("trained_as") for line in lines] == [None, "000", "000", None, "003", "003"]
    assert len({line["figures"]["validation_loss"] for line in lines}) == 2
    for name in (f"{number:03d}" + ("" if repeats == 1 else "-0") for number in range(6)):
        assert (tmp_path / f"trials/{name}.compress/COMPLETE").exists()


# --- slots -----------------------------------------------------------------------------------------------------------


def test_a_slot_that_begins_again_tells_that_its_run_has_died(tmp_path: Path) -> None:
    made = Cluster(sweep(3), tmp_path)

    async def play() -> tuple[list[str], dict[str, Any]]:
        one = made.keeper
        await one.began(0)
        await one.began(1)
        first, second = await one.next(0), await one.next(1)
        await one.began(0)
        again = await one.next(0)
        assert isinstance(first, dict) and isinstance(second, dict) and isinstance(again, dict)
        return [task["run"] for task in (first, second, again)], await one.table()

    runs, table = asyncio.run(play())
    assert runs == ["000", "001", "000"]
    assert not table["broken"]
    assert any(
        "trial 000: its process died (its node ran out of memory, or left)" in note for note in made.mailbox.notes
    )


def test_slots_that_come_to_no_run_break_the_sweep_off(tmp_path: Path) -> None:
    one = Cluster(sweep(3), tmp_path).keeper

    async def play() -> tuple[Any, dict[str, Any]]:
        for _ in range(keeper.SLOT_STARTS):
            await one.began(0)
        assert not (await one.table())["broken"]
        await one.began(0)
        return await one.next(0), await one.table()

    told, table = asyncio.run(play())
    assert told == "finished"
    assert table["broken"] == "the process of a slot began 21 times and came to no run: see Ray's logs"
