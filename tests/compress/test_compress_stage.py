"""The compress stage without an engine: its recipe's rules and what it refuses beforehand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manta import recipe as recipes
from manta.artifact import Resolved
from manta.compress import quantise
from manta.compress import run as stage
from manta.compress.quantising import layers, schemes
from manta.errors import InputError, RecipeError
from manta.schema import CompressRecipe
from manta.sections.quantise import Quantise

RECIPE: dict[str, Any] = {
    "kind": "compress",
    "name": "small",
    "model": {"source": "big"},
    "compress": {"quantise": {}, "calibration": {"shards": "shards"}},
}


def recipe_of(*overrides: str) -> CompressRecipe:
    made = recipes.validate(recipes.override(RECIPE, overrides))
    assert isinstance(made, CompressRecipe)
    return made


def test_rows_are_asked_for_exactly_where_they_are_looked_at() -> None:
    recipe_of("compress.quantise.algorithm=rtn", "compress.quantise.smoothquant=0.5")
    recipe_of("compress.quantise.algorithm=rtn", "compress.calibration=null")
    with pytest.raises(RecipeError, match=r"nothing is to be done: set compress\.quantise"):
        recipe_of("compress.quantise=null", "compress.calibration=null")
    assert recipe_of("compress.calibration=null").compress.rows is not None  # the lineage tells which
    with pytest.raises(RecipeError, match=r"set compress\.calibration=null"):
        recipe_of("compress.quantise.algorithm=rtn")


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        (["algorithm=awq", "smoothquant=0.5"], r"set compress\.quantise\.smoothquant=null or algorithm=gptq"),
        (["group_size=64"], r"set compress\.quantise\.group_size=null"),
        (["mixed={size_ratio: 0.5}", "scheme=w4a16"], r"leave compress\.quantise\.scheme out"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], remedy: str) -> None:
    with pytest.raises(RecipeError, match=remedy):
        recipe_of(*(f"compress.quantise.{each}" for each in overrides))


def test_every_choice_of_the_schema_has_its_function() -> None:
    fields = Quantise.model_fields
    assert set(quantise.ROUNDING) == set(fields["algorithm"].annotation.__args__)  # type: ignore[union-attr]
    assert set(schemes.SCHEMES) == set(fields["scheme"].annotation.__args__)  # type: ignore[union-attr]
    assert set(quantise.ROUNDING.values()) == set(layers.ROUNDING)


def test_a_quantised_model_is_not_quantised_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "compressed-tensors"}}))
    source = Resolved("model.source", "big", "directory", str(tmp_path), "0", "0")
    with pytest.raises(InputError, match="quantised already"):
        stage.check(recipe_of("compress.quantise.algorithm=rtn", "compress.calibration=null"), {"model.source": source})


def test_the_sentence_before_the_work_names_what_is_done() -> None:
    said = stage.describe(recipe_of("compress.quantise.smoothquant=0.8", "compress.calibration.samples=16"))
    assert (
        said
        == "w8a8 by gptq after smoothquant 0.8; embeddings and output head keep their precision (calibrated on 16 x 256 tokens)"
    )
