"""Drafts: the share that was kept and the gain, by hand; what cannot be measured is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from manta import recipe as recipes
from manta.artifact import Resolved
from manta.errors import InputError
from manta.evaluate import speculative
from manta.evaluate.speed import Seconds, Turn
from manta.schema import EvaluateRecipe
from manta.sections.speed import Speculative

SETTINGS = Speculative(draft="small", tokens=4, new_tokens=11, rounds=3)


def turn(seconds: float) -> Turn:
    return {"1": {"first": Seconds(1.0, 1.0), "whole": Seconds(1.0 + seconds, 1.0 + seconds)}}


def added(drafted: list[float], counts: tuple[int, int]) -> dict[str, Any]:
    turns = {"alone": [turn(4.0)] * 3, "drafted": [turn(seconds) for seconds in drafted]}
    usage = {"alone": {"drafted": (0, 0)}, "drafted": {"drafted": counts}}
    report: dict[str, Any] = {"figures": {}, "intervals": {}}
    speculative.add(report, json.loads(json.dumps({"turns": turns, "usage": usage})), SETTINGS, seed=0)
    return report


def test_drafts_that_gain_are_kept() -> None:
    report = added([2.0, 2.0, 3.2], (80, 60))
    figures = report["figures"]
    assert figures["draft_accepted_rate"] == 0.75
    assert figures["draft_speedup"] == figures["cpu_draft_speedup"] == pytest.approx(2.0)
    assert report["intervals"]["draft_speedup"] == pytest.approx((1.25, 2.0))
    assert figures["draft_kept"] is True


@pytest.mark.parametrize("drafted", [[4.0, 4.0, 4.0], [2.0, 2.0, 8.0]])
def test_drafts_that_may_not_gain_are_not(drafted: list[float]) -> None:
    assert added(drafted, (0, 0))["figures"]["draft_kept"] is False


def recipe_of(*overrides: str) -> EvaluateRecipe:
    raw = {
        "kind": "evaluate",
        "name": "scores",
        "model": {"source": "big"},
        "data": {"shards": "shards"},
        "evaluate": {"speculative": {"draft": "small"}},
    }
    made = recipes.validate(recipes.override(raw, overrides))
    assert isinstance(made, EvaluateRecipe)
    return made


def test_where_drafts_cannot_be_measured_they_are_refused() -> None:
    draft = {speculative.DRAFT: Resolved(speculative.DRAFT, "package:x", "package", "package:x", "f", "c")}
    speculative.check(recipe_of(), draft)
    with pytest.raises(InputError, match=r"set evaluate\.engine=vllm"):
        speculative.check(recipe_of("evaluate.engine=transformers"), draft)
    with pytest.raises(InputError, match=r"set data\.shards"):
        speculative.check(recipe_of("data.shards=null"), draft)


def test_the_draft_is_part_of_the_lineage() -> None:
    assert recipes.input_refs(recipe_of())[speculative.DRAFT][0] == "small"
