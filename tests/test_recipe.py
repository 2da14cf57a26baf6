"""Recipes: strictness, every problem at once, overrides, identity."""

import copy
import json
from collections.abc import Iterator

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from manta import recipe as recipes
from manta.errors import InputError, RecipeError
from manta.schema import KINDS

PRETRAIN = {
    "kind": "pretrain",
    "name": "base",
    "data": {"shards": "shards"},
    "batch": {"samples": 8},
    "stop": {"tokens": 1000},
}


def problems(raw: dict) -> dict[str, str]:
    with pytest.raises(RecipeError) as caught:
        recipes.validate(raw)
    return {problem.path: problem.remedy for problem in caught.value.problems}


def test_every_problem_is_reported_at_once() -> None:
    raw = {
        "kind": "pretrain",
        "name": "a b",
        "data": {"shard": "x"},
        "optimizer": {"lr": "1e-3", "precision": "bf17"},
        "batch": {"samples": 8, "tokens": 8},
        "stop": {"tokens": 1e6},
        "micro_batch": 4,
    }
    found = problems(raw)
    assert set(found) == {
        "name",
        "data.shards",
        "data.shard",
        "optimizer.lr",
        "optimizer.precision",
        "batch",
        "stop.tokens",
        "micro_batch",
    }
    assert "did you mean 'shards'" in found["data.shard"]
    assert "remove the quotes" in found["optimizer.lr"]
    assert "did you mean 'bf16'" in found["optimizer.precision"]
    assert "exactly one" in found["batch"]
    assert "write 1000000" in found["stop.tokens"]
    assert "belongs at resources.micro_batch" in found["micro_batch"]


# Of tagged unions, what says which section it is.
TAGS = {
    "adapt": {"adapt.method": "full"},
    "task": {"task.name": "chat"},
    "data.layout": {"data.layout.kind": "concat"},
    "objective": {"objective.name": "clm"},
    "objective.hidden": {"objective.name": "distillation"},
    "objective.method": {"objective.name": "denoising", "objective.method.kind": "spans"},
    "early": {"early.method": "asha"},
}


def _tags(section: str) -> Iterator[tuple[str, str]]:
    """What has to be said for a section to be one of its choices: (path, value)."""
    prefix = ""
    if section.startswith("trial"):  # of the first kind of trials that has such a section
        prefix = "trial."
        inner = section.removeprefix("trial").removeprefix(".")
        kinds = ("finetune", "pretrain", "compress")
        yield "trial.kind", next(one for one in kinds if not inner or inner in recipes.field_paths(KINDS[one]))
    elif section.startswith("search."):
        prefix = "search."
    inner = section.removeprefix(prefix)
    for tag, value in TAGS.get(inner.rpartition("task")[1] or inner, {}).items():
        yield f"{prefix}{inner.rpartition('task')[0]}{tag}", value


@pytest.mark.parametrize("kind", list(KINDS))
def test_unknown_keys_are_refused_at_every_depth(kind: str) -> None:
    """Plant an unknown key in each section that the kind has: each must be found where it was planted."""
    sections = {path.rpartition(".")[0] for path in recipes.field_paths(KINDS[kind])} - {""}
    for section in sorted(path for path in sections if "*" not in path):
        raw = {"kind": kind, "name": "x"}
        recipes.set_path(raw, f"{section}.no_such_key", 1)
        for path, value in _tags(section):
            recipes.set_path(raw, path, value)
        with pytest.raises(RecipeError) as caught:
            recipes.validate(raw)
        assert f"{section}.no_such_key" in {problem.path for problem in caught.value.problems}


def test_union_errors_are_reported_where_the_user_wrote() -> None:
    raw = {
        **PRETRAIN,
        "kind": "finetune",
        "data": {"examples": "x"},
        "model": {"source": "base"},
        "task": {"name": "chatt"},
    }
    assert "did you mean 'chat'" in problems(raw)["task.name"]
    assert "choose one of" in problems({"kind": "pretrian"})["kind"]
    assert "model.hidden_sise" in problems({**PRETRAIN, "model": {"hidden_sise": 3}})


def test_loose_types_are_refused_and_whole_numbers_pass_for_floats() -> None:
    assert "seed" in problems({**PRETRAIN, "seed": True})
    assert "seed" in problems({**PRETRAIN, "seed": "1"})
    assert recipes.validate({**PRETRAIN, "optimizer": {"lr": 1}}).optimizer.lr == 1.0  # type: ignore[union-attr]


def test_resolved_recipe_reloads_to_itself() -> None:
    recipe = recipes.validate(PRETRAIN)
    assert recipes.validate(recipes.resolved(recipe)) == recipe
    assert recipes.validate(yaml.safe_load(recipes.to_yaml(recipe))) == recipe


def test_overrides(tmp_path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump(PRETRAIN))
    recipe = recipes.load(file, ["optimizer.lr=3e-4", "resources.workers=2", "stop.tokens=null", "stop.steps=7"])
    assert (recipe.optimizer.lr, recipe.resources.workers, recipe.stop.steps) == (3e-4, 2, 7)
    with pytest.raises(InputError, match=r"not key\.path=value"):
        recipes.load(file, ["optimizer.lr"])
    with pytest.raises(RecipeError, match="did you mean 'lr'"):
        recipes.load(file, ["optimizer.lrr=1"])
    raw = {"kind": "prepare", "name": "x", "data": {"sources": [{"path": "a", "format": "text"}]}}
    file.write_text(yaml.safe_dump(raw))
    assert recipes.load(file, ["data.sources.0.path=b"]).data.sources[0].path == "b"
    with pytest.raises(InputError, match="not one of the 1 items"):
        recipes.load(file, ["data.sources.3.path=b"])


def test_yaml_traps(tmp_path) -> None:
    assert recipes.parse_yaml("[1e-3, 1.5, -2E5, 7, .inf]") == [1e-3, 1.5, -2e5, 7, float("inf")]
    with pytest.raises(yaml.YAMLError, match="given twice"):
        recipes.parse_yaml("a: 1\nb: 2\na: 3\n")
    (tmp_path / "pretrain.yaml").write_text("kind: [")
    with pytest.raises(InputError, match="not valid YAML"):
        recipes.load(tmp_path / "pretrain.yaml")
    with pytest.raises(InputError, match=r"did you mean .*pretrain\.yaml"):
        recipes.load(tmp_path / "pretrian.yaml")


def test_wrong_command_for_the_kind_names_the_right_one() -> None:
    with pytest.raises(RecipeError, match="use `manta pretrain`"):
        recipes.validate(PRETRAIN, kind="finetune")


def test_identity_ignores_resources_and_places_only() -> None:
    base = recipes.fingerprint(recipes.validate(PRETRAIN), {"data.shards": "aa"})

    def changed(path: str, value: object) -> str:
        raw = copy.deepcopy(PRETRAIN)
        recipes.set_path(raw, path, value)
        return recipes.fingerprint(recipes.validate(raw), {"data.shards": "aa"})

    for path, value in [("name", "other"), ("output", "s3://b/x"), ("resources.workers", 8), ("checkpoint.keep", 5)]:
        assert changed(path, value) == base, path
    assert changed("data.shards", "elsewhere/shards") == base  # what counts is what the input holds
    for path, value in [("seed", 1), ("stop.tokens", 1001), ("optimizer.lr", 0.5), ("batch.samples", 16)]:
        assert changed(path, value) != base, path
    assert recipes.fingerprint(recipes.validate(PRETRAIN), {"data.shards": "bb"}) != base


def test_where_an_endpoint_listens_is_not_what_it_is() -> None:
    def fingerprint(**serve: object) -> str:
        raw = {"kind": "serve", "name": "e", "model": {"source": "m"}, "serve": serve}
        return recipes.fingerprint(recipes.validate(raw), {"model.source": "aa"})

    assert fingerprint(port=1, host="0.0.0.0", keys_file="k") == fingerprint()
    assert fingerprint(access_log="logs", otlp_endpoint="http://c:4317", cors_origins=["*"]) == fingerprint()
    assert fingerprint(dtype="float32") != fingerprint()


def test_input_refs_are_found_in_unions_and_optionals() -> None:
    raw = {"kind": "evaluate", "name": "s", "model": {"source": "a", "base": "b"}, "data": {"shards": "c"}}
    refs = recipes.input_refs(recipes.validate(raw))
    assert {role: ref for role, (ref, _) in refs.items()} == {
        "model.source": "a",
        "model.base": "b",
        "data.shards": "c",
    }
    from_weights = recipes.validate({**PRETRAIN, "model": {"source": "old"}})
    assert recipes.input_refs(from_weights)["model.source"][0] == "old"


@pytest.mark.parametrize("kind", list(KINDS))
def test_json_schema(kind: str) -> None:
    schema = recipes.json_schema(kind)
    assert schema["additionalProperties"] is False
    json.dumps(schema)


def test_json_schema_of_unknown_kind() -> None:
    with pytest.raises(InputError, match="did you mean 'pretrain'"):
        recipes.json_schema("pretrian")


def test_differences_names_leaves() -> None:
    assert recipes.differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == [
        "a.c: 2 -> 3",
        "d: None -> 4",
    ]


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)))
def test_arbitrary_mappings_never_crash(raw: dict) -> None:
    for kind in KINDS:
        with pytest.raises(RecipeError):
            recipes.validate({**raw, "kind": kind, "unknown key": 1})


def test_a_list_of_steps_tells_which_one_is_wrong() -> None:
    steps = [{"step": "normalize"}, {"step": "length", "min_char": 3}, {"min_chars": 3}]
    data = {"sources": [{"path": "x", "format": "text"}], "steps": steps}
    with pytest.raises(RecipeError) as refusal:
        recipes.validate({"kind": "prepare", "name": "shards", "data": data})
    found = {problem.path: problem for problem in refusal.value.problems}
    assert set(found) == {"data.steps.0.step", "data.steps.1.min_char", "data.steps.2.step"}
    assert found["data.steps.0.step"].value == "normalize"
    assert "did you mean 'normalise'?" in found["data.steps.0.step"].remedy
    assert "did you mean 'min_chars'?" in found["data.steps.1.min_char"].remedy
    assert found["data.steps.2.step"].remedy == "missing: this key is required"
