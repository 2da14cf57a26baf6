"""A run and what follows it: the recipes of the chain, and the figures that it is judged by, from artifacts by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manta.errors import RecipeError
from manta.schema import TuneRecipe
from manta.tune import figures, space, trial
from tests.tune.faked import complete
from tests.tune.test_space import tune

LR = {"optimizer.lr": {"choice": [1e-3, 1e-2]}}
AFTER: dict[str, Any] = {
    "compress": {"compress": {"quantise": {}, "calibration": {"shards": "rows"}}},
    "evaluate": {"data": {"shards": "rows"}},
}


def recipe(after: dict[str, Any], **search: Any) -> TuneRecipe:
    raw = tune(LR, 2, 0, None, stop={"steps": 8}).model_dump()
    raw["search"] |= search
    return TuneRecipe.model_validate(raw | {"after": after})


def made(after: dict[str, Any], folder: Path, name: str = "001", trained_as: str | None = None) -> space.Made:
    overrides = {"optimizer.lr": 1e-2, **({"after.compress.compress.quantise.smoothquant": 0.5} if after else {})}
    return space.made(recipe(after), overrides, name, str(folder), 7, trained_as=trained_as)


def test_a_chain_lies_side_by_side(tmp_path: Path) -> None:
    chain: list[Any] = trial.chain(made(AFTER, tmp_path))
    assert [one.name for one in chain] == ["001", "001.compress", "001.evaluate"]
    assert [one.kind for one in chain] == ["finetune", "compress", "evaluate"]
    assert {one.output for one in chain} == {str(tmp_path)}
    assert {one.seed for one in chain} == {7}
    assert chain[0].optimizer.lr == 1e-2
    assert chain[1].model.source == f"{tmp_path}/001"
    assert chain[1].compress.quantise.smoothquant == 0.5
    assert chain[2].model.source == f"{tmp_path}/001.compress", "what is scored is what would be served"
    assert chain[2].gate.engine_gap is None


def test_what_follows_a_shared_training_has_its_own_name(tmp_path: Path) -> None:
    chain: list[Any] = trial.chain(made(AFTER, tmp_path, "003", "001"))
    assert [one.name for one in chain] == ["001", "003.compress", "003.evaluate"]
    assert chain[1].model.source == f"{tmp_path}/001"
    assert chain[2].model.source == f"{tmp_path}/003.compress"


def test_figures_have_the_names_of_their_stages(tmp_path: Path) -> None:
    run = made({**AFTER, "latency": {}}, tmp_path)
    complete(tmp_path / "001", "finetune", validation_loss=2.0, seconds=10.0, tokens=5, best=True, note="text")
    (tmp_path / "001/model").mkdir()
    (tmp_path / "001/model/weights").write_bytes(b"12345")
    assert trial.figures(run) is None, "it was not compressed yet"
    complete(tmp_path / "001.compress", "compress", size_ratio=0.5, scheme="w8a8", seconds=3.0)
    (tmp_path / "001.compress/model").mkdir()
    (tmp_path / "001.compress/model/weights").write_bytes(b"123")
    assert not trial.is_made(run)
    complete(tmp_path / "001.evaluate", "evaluate", perplexity=7.5, passed=True, missed=[], seconds=4.0)
    assert trial.is_made(run)
    assert trial.figures(run) is None, "it was not measured yet"
    (tmp_path / "001.latency").mkdir()
    (tmp_path / "001.latency/figures.json").write_text(json.dumps({"p50_ms": 3, "p95_ms": 4.5}))
    found = trial.figures(run)
    assert found is not None
    expected = {
        "validation_loss": 2.0, "train_seconds": 10.0, "worker_seconds": 10.0, "model_bytes": 5.0, "tokens": 5.0,
        "compress.size_ratio": 0.5, "compress.seconds": 3.0, "compress.model_bytes": 3.0,
        "evaluate.perplexity": 7.5, "evaluate.seconds": 4.0, "latency.p50_ms": 3.0, "latency.p95_ms": 4.5,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert not {"best", "note", "compress.scheme", "evaluate.passed"} & set(found)


def test_objectives_are_figures_that_the_recipe_asks_for() -> None:
    assert "latency.p95_ms" not in figures.known(recipe({}))
    assert {"latency.p50_ms", "latency.ms_per_token"} <= set(figures.known(recipe({"latency": {}})))
    raw = recipe({"latency": {}}).model_dump()
    raw["trial"]["task"] = {"name": "classification"}
    heads = figures.known(TuneRecipe.model_validate(raw))
    assert "latency.p50_ms" in heads
    assert "latency.ms_per_token" not in heads, "a head gives no tokens"
    assert "cost" not in figures.known(recipe({}))
    assert "cost" in figures.known(recipe({}, price_per_hour=1.0))
    assert "compress.size_bytes" in figures.known(recipe(AFTER))
    told = list(figures.problems(recipe({}, objectives={"latency.p50_ms": "min"})))
    assert [problem.path for problem in told] == ["search.objectives.latency.p50_ms"]


def test_how_a_trial_is_measured_is_not_searched() -> None:
    from manta import stage

    raw = recipe({"latency": {}}).model_dump()
    raw["search"]["space"] = {"after.latency.tokens": {"choice": [8, 16]}}
    with pytest.raises(RecipeError, match=r"after\.latency\.tokens: cannot be searched"):
        stage.refuse_problems(TuneRecipe.model_validate(raw))


def test_mean_and_spread_by_hand() -> None:
    mean, spread = figures.mean([{"a": 1.0, "b": 5.0}, {"a": 2.0, "b": 5.0}, {"a": 6.0}])
    assert mean == {"a": 3.0}
    assert spread == {"a": pytest.approx(7**0.5)}, "of -2, -1, 3: 14 / 2"
    assert figures.mean([{"a": 1.0}]) == ({"a": 1.0}, {})


def test_what_follows_a_trial_finds_room_while_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight CPUs and trials of one: a compression with four must not wait for CPUs that runs at their marks hold."""
    from manta import cluster
    from manta.tune import sweep

    monkeypatch.setattr(cluster, "total_cpus", lambda: 8)

    def room(after: dict[str, Any]) -> int:
        asked = recipe(after, trials=9).model_dump() | {"resources": {"concurrent_trials": 9}}
        return sweep.room(TuneRecipe.model_validate(asked), 1, 1, 0)

    assert room({}) == 8
    assert room({"compress": {**AFTER["compress"], "resources": {"cpus": 4}}}) == 2
    assert room({"evaluate": {**AFTER["evaluate"], "resources": {"cpus": 3}}}) == 2
    assert room({"latency": {"cpus": 4}}) == 8, "measured alone"
