"""The evaluate stage without an engine: what it refuses beforehand, how it sums up, when its verdict refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest

from manta import recipe as recipes
from manta.artifact import Artifact
from manta.errors import GateRefused, InputError
from manta.evaluate import run as stage
from manta.evaluate.measure import limits
from manta.schema import EvaluateRecipe
from manta.storage import Folder

RECIPE: dict[str, Any] = {
    "kind": "evaluate",
    "name": "scores",
    "model": {"source": "small", "base": "big"},
    "data": {"shards": "shards", "examples": "shards"},
    "evaluate": {"task": {"name": "summarisation"}},
}


def recipe_of(*overrides: str) -> EvaluateRecipe:
    made = recipes.validate(recipes.override(RECIPE, overrides))
    assert isinstance(made, EvaluateRecipe)
    return made


def measured(nll: list[float], predictions: list[str], gap: float | None = 0.001) -> dict[str, Any]:
    references = ["a b", "c d"][: len(predictions)]
    return {
        "nll": nll,
        "tokens": [4] * len(nll),
        "predictions": predictions,
        "references": references,
        "engine_gap": gap,
        "cpu_seconds": 1.0,
    }


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        (["data.shards=null"], "evaluate.perplexity_rows=0"),
        (["data.examples=null"], "set both"),
        (["evaluate.task=null"], "set both"),
        (["evaluate.task_samples=0"], "set both"),
        (
            ["data.shards=null", "data.examples=null", "evaluate.task=null", "evaluate.perplexity_rows=0"],
            "nothing to evaluate",
        ),
        (["model.base=null", "gate.perplexity_recovery=95.0"], "gate.perplexity_recovery = 95"),
        (["data.examples=null", "evaluate.task=null", "gate.score_recovery=95.0"], "gate.score_recovery = 95"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_starts(overrides: list[str], remedy: str) -> None:
    with pytest.raises(InputError, match=remedy.replace(".", r"\.")):
        stage.check(recipe_of(*overrides), {})


def test_figures_by_hand() -> None:
    recipe = recipe_of("gate.perplexity_recovery=45.0", "gate.score_recovery=70.0")
    base = measured([4 * math.log(4), 4 * math.log(4)], ["a b", "c d"])
    model = measured([4 * math.log(4), 4 * math.log(16)], ["a b", "c x"])
    report = stage.summarise(recipe, {"model": model, "base": base})
    figures = report["figures"]
    assert figures["base_perplexity"] == pytest.approx(4)
    assert figures["perplexity"] == pytest.approx(8)
    assert figures["perplexity_recovery"] == pytest.approx(50)
    assert figures["base_score"] == pytest.approx(100)
    assert figures["score"] == pytest.approx(75)
    assert figures["score_recovery"] == pytest.approx(75)
    assert figures["passed"] is True
    assert figures["missed"] == []
    low, high = report["intervals"]["perplexity_recovery"]
    assert low == pytest.approx(25)
    assert high == pytest.approx(100)
    assert [row["score"] for row in report["examples"]] == pytest.approx([100, 50])
    assert report["examples"][1]["base_prediction"] == "c d"


def test_a_missed_gate_is_written_down_and_refused_whenever_it_is_asked() -> None:
    recipe = recipe_of("gate.perplexity_recovery=99.0")
    base, model = measured([4.0], ["a b"]), measured([8.0], ["a b"])
    figures = stage.summarise(recipe, {"model": model, "base": base})["figures"]
    assert figures["passed"] is False
    artifact = Artifact(Folder("/nowhere/scores"), {"metrics": figures})
    for _ in range(2):
        with pytest.raises(GateRefused, match=r"perplexity_recovery is 36\.79%, the gate demands 99%") as refused:
            stage.verdict(recipe, artifact)
    assert refused.value.exit_code == 4


def test_a_passed_gate_says_nothing() -> None:
    figures = stage.summarise(recipe_of(), {"model": measured([4.0], ["a b"]), "base": measured([4.0], ["a b"])})[
        "figures"
    ]
    stage.verdict(recipe_of(), Artifact(Folder("/nowhere/scores"), {"metrics": figures}))


def test_a_model_alone_has_figures_but_no_recovery() -> None:
    figures = stage.summarise(recipe_of("model.base=null"), {"model": measured([4.0], ["a b"])})["figures"]
    assert figures["perplexity"] == pytest.approx(math.e)
    assert "perplexity_recovery" not in figures
    assert "base_engine_gap" not in figures


def test_answers_get_what_positions_are_left() -> None:
    assert limits([[0] * 10, [0] * 60], positions=64, wanted=16) == [16, 4]
    with pytest.raises(InputError, match="64 tokens and the model takes 64"):
        limits([[0] * 64], positions=64, wanted=16)


def test_broken_figures_are_null_in_json_and_miss_the_gate() -> None:
    recipe = recipe_of("gate.perplexity_recovery=95.0")
    report = stage.summarise(recipe, {"model": measured([math.nan], ["a b"]), "base": measured([4.0], ["a b"])})
    assert report["figures"]["passed"] is False
    kept = stage.finite(report)
    assert kept["figures"]["perplexity"] is None
    assert kept["figures"]["base_perplexity"] == pytest.approx(math.e)
    assert kept["intervals"]["perplexity"] is None
    assert kept["nll"]["model"] == [None]
