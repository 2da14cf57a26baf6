"""Recipes of endpoints: one model or several, each with adapters, under names with dots of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from manta import artifact
from manta import recipe as recipes
from manta.errors import InputError, RecipeError
from manta.schema import ServeRecipe

TWO = {
    "kind": "serve",
    "name": "shelf",
    "models": {
        "qwen2.5": {"source": "big", "adapters": {"law-1.0": "./law", "code": "tuned"}},
        "small": {"source": "little", "evaluation": "scores", "max_replicas": 2},
    },
}


def read(raw: Any) -> ServeRecipe:
    made = recipes.validate(raw)
    assert isinstance(made, ServeRecipe)
    return made


def refused(raw: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        recipes.validate(raw)
    return str(caught.value)


def test_every_model_and_adapter_is_an_input() -> None:
    assert {role: ref for role, (ref, _) in recipes.input_refs(read(TWO)).items()} == {
        "models.qwen2.5.source": "big",
        "models.qwen2.5.adapters.law-1.0": "./law",
        "models.qwen2.5.adapters.code": "tuned",
        "models.small.source": "little",
        "models.small.evaluation": "scores",
    }


def test_sections_are_found_by_what_clients_write() -> None:
    assert list(read(TWO).sections) == ["qwen2.5", "small"]
    alone = read({"kind": "serve", "name": "one", "model": {"source": "big"}})
    assert list(alone.sections) == ["one"]
    assert (alone.role("one"), read(TWO).role("small")) == ("model", "models.small")


@pytest.mark.parametrize("given", [{}, {"model": {"source": "a"}, "models": TWO["models"]}, {"models": {}}])
def test_one_of_model_and_models(given: dict[str, Any]) -> None:
    assert "set exactly one of model" in refused({"kind": "serve", "name": "s", **given})


@pytest.mark.parametrize(
    "models",
    [
        {"a": {"source": "x", "adapters": {"b": "./b"}}, "b": {"source": "y"}},
        {"a": {"source": "x", "adapters": {"c": "./b"}}, "b": {"source": "y", "adapters": {"c": "./b"}}},
        {"a": {"source": "x", "adapters": {"a": "./b"}}},
    ],
)
def test_a_name_is_given_once(models: dict[str, Any]) -> None:
    assert "has the name of another model or adapter" in refused({"kind": "serve", "name": "s", "models": models})


def test_a_wrong_key_of_a_model_is_named_with_its_place() -> None:
    said = refused(
        {"kind": "serve", "name": "s", "models": {"a.b": {"source": "x", "adaptors": {}}, "b c": {"source": "y"}}}
    )
    assert "models.a.b.adaptors" in said and "did you mean 'adapters'" in said
    assert "models.b c" in said


def test_overrides_reach_names_with_dots() -> None:
    raw = recipes.override(TWO, ["models.qwen2.5.source=other", "models.qwen2.5.adapters.law-1.0=./new", "models.small.cpus_per_replica=2"])  # fmt: skip
    made = read(raw)
    assert made.models["qwen2.5"].source == "other"
    assert made.models["qwen2.5"].adapters == {"law-1.0": "./new", "code": "tuned"}
    assert made.models["small"].cpus_per_replica == 2
    assert list(made.models) == ["qwen2.5", "small"]


def test_identity_follows_what_the_inputs_hold_not_where_they_lie() -> None:
    roles = list(recipes.input_refs(read(TWO)))
    held = dict.fromkeys(roles, "f" * 64)
    moved = read(recipes.override(TWO, ["models.qwen2.5.source=./elsewhere/big", "models.qwen2.5.adapters.law-1.0=./x"]))  # fmt: skip
    assert recipes.fingerprint(read(TWO), held) == recipes.fingerprint(moved, held)
    other = held | {"models.qwen2.5.adapters.law-1.0": "e" * 64}
    assert recipes.fingerprint(read(TWO), held) != recipes.fingerprint(read(TWO), other)


def test_what_a_model_runs_on_is_not_what_it_is() -> None:
    roles = list(recipes.input_refs(read(TWO)))
    held = dict.fromkeys(roles, "f" * 64)
    more = read(recipes.override(TWO, ["models.qwen2.5.cpus_per_replica=3", "models.small.gpus_per_replica=1"]))
    assert recipes.fingerprint(read(TWO), held) == recipes.fingerprint(more, held)
    longer = read(recipes.override(TWO, ["models.small.max_model_len=64"]))
    assert recipes.fingerprint(read(TWO), held) != recipes.fingerprint(longer, held)


def test_how_a_new_version_is_tried_is_no_part_of_what_is_served() -> None:
    held = dict.fromkeys(recipes.input_refs(read(TWO)), "f" * 64)
    tried = read(recipes.override(TWO, ["serve.canary.share=0.25"]))
    assert recipes.fingerprint(read(TWO), held) == recipes.fingerprint(tried, held)
    assert tried.serve.canary is not None and tried.serve.canary.share == 0.25


@pytest.mark.parametrize(("setting", "told"), [
    ("share=1", "serve.canary.share"), ("share=0", "serve.canary.share"), ("requests=0", "serve.canary.requests"),
    ("max_tttf_ratio=2", "max_ttft_ratio"), ("inconclusive=wait", "serve.canary.inconclusive"),
])  # fmt: skip
def test_a_canary_that_cannot_be(setting: str, told: str) -> None:
    assert told in refused(recipes.override(TWO, [f"serve.canary.{setting}"]))


def test_it_reloads_from_its_own_yaml() -> None:
    assert recipes.validate(recipes.parse_yaml(recipes.to_yaml(read(TWO)))) == read(TWO)


def test_a_peft_directory_is_an_adapter_and_no_model(tmp_path: Path) -> None:
    (tmp_path / "law").mkdir()
    (tmp_path / "law" / "adapter_config.json").write_text("{}")
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "config.json").write_text("{}")
    (tmp_path / "big" / "adapter_config.json").write_text("{}")  # beside a model it does not make it less of one
    law, big = str(tmp_path / "law"), str(tmp_path / "big")
    one = {"kind": "serve", "name": "s", "model": {"source": big, "adapters": {"law": law}}}
    found = artifact.resolve_inputs(read(one))
    assert {role: item.kind for role, item in found.items()} == {"model.source": "directory", "model.adapters.law": "adapter"}  # fmt: skip
    with pytest.raises(InputError, match=r"holds neither an artifact .* nor a model \(config\.json\)"):
        artifact.resolve_inputs(read({"kind": "serve", "name": "s", "model": {"source": law}}))


def test_a_dict_of_settings_names_no_inputs() -> None:
    raw = {"kind": "pretrain", "name": "b", "data": {"shards": "s"}, "batch": {"samples": 1}, "stop": {"tokens": 9}}
    made = recipes.validate(raw | {"model": {"config": {"model_type": "llama"}}})
    assert list(recipes.input_refs(made)) == ["data.shards"]
