"""The gate: each figure that is missed is named with its value, what cannot be measured is refused before anything starts."""

from __future__ import annotations

import math
from typing import Any

import pytest

from manta import recipe as recipes
from manta.errors import InputError
from manta.evaluate import gate
from manta.schema import EvaluateRecipe
from manta.sections.outcome import Gate

DEMANDING = Gate(
    perplexity_recovery=95.0,
    score_recovery=90.0,
    token_drift=0.1,
    size_ratio=0.65,
    speedup_1=1.3,
    speedup_16=1.2,
    cpu_speedup_1=1.3,
    cpu_speedup_16=1.2,
    first_token_ms=80.0,
)
FIGURES = {
    "perplexity_recovery": 95.0,
    "score_recovery": 90.0,
    "token_drift": 0.1,
    "size_ratio": 0.65,
    "speedup_1": 1.3,
    "speedup_16": 1.2,
    "cpu_speedup_1": 1.3,
    "cpu_speedup_16": 1.2,
    "first_token_ms": 80.0,
    "engine_gap": 0.05,
    "base_engine_gap": 0.0,
    "token_gap": 0.05,
    "token_gap_explained": 0.05,
}


def test_a_gate_passes_at_exactly_its_figures() -> None:
    assert gate.missed(DEMANDING, FIGURES) == []
    assert set(gate.DEMANDS) <= set(FIGURES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"perplexity_recovery": 94.99}, "perplexity_recovery is 94.99%, the gate demands 95%"),
        ({"perplexity_recovery": math.nan}, "perplexity_recovery is nan%"),
        ({"score_recovery": 89.0}, "score_recovery is 89.00%, the gate demands 90%"),
        ({"score_recovery": None}, "score_recovery could not be measured (the base scores 0); the gate demands 90%"),
        ({"token_drift": 0.11}, "token_drift is 0.1100, the gate allows 0.1000"),
        ({"size_ratio": 0.651}, "size_ratio is 0.651, the gate allows 0.650"),
        ({"speedup_1": 1.29}, "speedup_1 is 1.29, the gate demands 1.30"),
        ({"speedup_16": 1.0}, "speedup_16 is 1.00, the gate demands 1.20"),
        ({"cpu_speedup_1": 1.0}, "cpu_speedup_1 is 1.00, the gate demands 1.30"),
        ({"cpu_speedup_16": math.nan}, "cpu_speedup_16 is nan, the gate demands 1.20"),
        ({"first_token_ms": 81.0}, "first_token_ms is 81.0, the gate allows 80.0"),
        ({"first_token_ms": None}, "first_token_ms could not be measured; the gate allows 80.0"),
        ({"engine_gap": 0.06}, "disagree on this model: perplexity differs by 6.0%, gate.engine_gap allows 5.0%"),
        ({"base_engine_gap": math.inf}, "disagree on the base"),
        ({"token_gap": 0.08}, "this model: a token's log-probability differs by 0.0800 nats on average, precision and"),
        ({"token_gap": math.inf}, "disagree on this model"),
    ],
)
def test_each_figure_that_is_missed_is_named_with_its_value(change: dict[str, float | None], said: str) -> None:
    [miss] = gate.missed(DEMANDING, FIGURES | change)
    assert said in miss


def test_figures_that_no_gate_asks_for_are_not_judged() -> None:
    free = Gate(engine_gap=None)
    assert gate.missed(free, {"perplexity_recovery": 1.0, "engine_gap": 9.0, "token_gap": 9.0, "size_ratio": 2.0}) == []


def test_a_distance_that_was_named_counts_instead_of_what_is_explained() -> None:
    assert gate.missed(Gate(token_gap=0.2), {"token_gap": 0.1, "token_gap_explained": 0.05}) == []
    [miss] = gate.missed(Gate(token_gap=0.02), {"token_gap": 0.03, "token_gap_explained": 0.05})
    assert "gate.token_gap allows 0.0200" in miss
    assert gate.missed(Gate(), {"token_gap": 9.0}) == [], "nothing says how much is explained"


def test_confidence_is_asked_of_the_end_that_is_nearer_to_failing() -> None:
    intervals = {"perplexity_recovery": (94.0, 99.0), "speedup_1": (1.3, 1.9), "first_token_ms": (70.0, 81.0)}
    assert gate.missed(DEMANDING, FIGURES, intervals) == []
    sure = DEMANDING.model_copy(update={"confident": True})
    recovery, first = gate.missed(sure, FIGURES, intervals)
    assert "perplexity_recovery is 95.00%, but its 95% interval begins at 94.00% and the gate demands 95%" in recovery
    assert "first_token_ms is 80.0, but its 95% interval ends at 81.0 and the gate allows 80.0" in first


@pytest.mark.parametrize("kept", [49.0, math.nan, None])
def test_a_compressed_model_that_collapsed_is_refused_without_being_asked(kept: float | None) -> None:
    figures = {"perplexity_recovery": kept}
    assert gate.missed(Gate(), figures) == []
    [miss] = gate.missed(Gate(), figures, compressed=True)
    assert "files are wrong" in miss
    assert gate.missed(Gate(), {"perplexity_recovery": 50.0}, compressed=True) == []
    assert gate.missed(Gate(perplexity_recovery=10.0), {"perplexity_recovery": 20.0}, compressed=True) == []


def recipe_of(*overrides: str) -> EvaluateRecipe:
    raw: dict[str, Any] = {
        "kind": "evaluate",
        "name": "scores",
        "model": {"source": "small", "base": "big"},
        "data": {"shards": "shards"},
        "evaluate": {"speed": {}},
    }
    made = recipes.validate(recipes.override(raw, overrides))
    assert isinstance(made, EvaluateRecipe)
    return made


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        (["gate.score_recovery=95.0"], "gate.score_recovery = 95 cannot be measured: set model.base and evaluate.task"),
        (["gate.size_ratio=0.5", "model.base=null"], "gate.size_ratio = 0.5 cannot be measured: set model.base"),
        (["gate.speedup_1=1.3", "model.base=null"], "gate.speedup_1 = 1.3 cannot be measured: set model.base and"),
        (["gate.cpu_speedup_16=1.3", "evaluate.speed=null"], "set model.base and evaluate.speed"),
        (["gate.first_token_ms=9.0", "evaluate.speed=null"], "set evaluate.speed"),
        (["gate.speedup_16=1.3", "evaluate.speed.batches=[1,8]"], "evaluate.speed.batches = [1, 8] leaves 16 out"),
        (["gate.first_token_ms=9.0", "evaluate.speed.batches=[16]"], "leaves 1 out: add it"),
    ],
)
def test_what_is_demanded_and_not_measured_is_refused(overrides: list[str], remedy: str) -> None:
    with pytest.raises(InputError) as refused:
        gate.check(recipe_of(*overrides), rows=True, task=False)
    assert remedy in str(refused.value)


def test_what_is_measured_may_be_demanded() -> None:
    demands = [f"gate.{name}=1.0" for name in gate.DEMANDS]
    gate.check(recipe_of(*demands), rows=True, task=True)
    gate.check(recipe_of("model.base=null", "gate.first_token_ms=1.0"), rows=False, task=False)
