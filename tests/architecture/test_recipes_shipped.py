"""Every recipe in the repository is valid, and every option a recipe can hold is read by somebody."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from manta import recipe as recipes
from manta import schema
from tests.architecture.source_tree import ROOT, modules, parse, tracked

RECIPES = [
    path.relative_to(ROOT).as_posix() for path in tracked("jobs/recipes/*.yaml", "cluster/*.yaml", "docs/*.yaml")
]
# These are read by the core through the schema itself, not by name.
READ_BY_THE_CORE = {"kind"}


def is_recipe(name: str) -> bool:
    raw = recipes.parse_yaml((ROOT / name).read_text(encoding="utf-8")) if _documents(name) == 1 else None
    return isinstance(raw, dict) and raw.get("kind") in schema.KINDS


def _documents(name: str) -> int:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return 1 + sum(line.strip() == "---" for line in lines[1:])


def test_there_are_recipes() -> None:
    assert {Path(name).parent.name for name in RECIPES} >= {"quickstart", "smollm2"}


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("jobs/")])
def test_a_shipped_recipe_is_valid_and_reloads(name: str) -> None:
    loaded = recipes.load(ROOT / name)
    assert recipes.validate(recipes.resolved(loaded)) == loaded
    assert recipes.validate(recipes.parse_yaml(recipes.to_yaml(loaded))) == loaded


@pytest.mark.parametrize("name", [name for name in RECIPES if Path(name).name == "pipeline.yaml"])
def test_a_pipeline_lists_recipes_that_exist_and_fit_together(name: str) -> None:
    """Each bare reference names the artifact of an earlier stage, of a kind that fits."""
    loaded = recipes.load(ROOT / name, kind="pipeline")
    assert isinstance(loaded, schema.PipelineRecipe)
    made: dict[str, str] = {}
    for file in loaded.stages:
        stage = recipes.load((ROOT / name).parent / file)
        assert isinstance(stage, schema.Recipe)
        for path, (ref, marker) in recipes.input_refs(stage).items():
            if "/" in ref or ":" in ref:
                continue
            assert ref in made, f"{file}: {path} = {ref!r} is not made by an earlier stage"
            assert made[ref] in marker.kinds, f"{file}: {path} = {ref!r} is a {made[ref]}"
        assert stage.name not in made, f"{file}: the name {stage.name!r} is taken by an earlier stage"
        made[stage.name] = stage.kind


def sections() -> list[type[BaseModel]]:
    """Every section and kind that the schema defines."""
    return [item for item in vars(schema).values() if isinstance(item, type) and issubclass(item, BaseModel)]


def options() -> list[tuple[str, str]]:
    found = [
        (section.__name__, name)
        for section in sections()
        if section.__module__ == schema.__name__
        for name in section.__annotations__
        if name in section.model_fields and name not in READ_BY_THE_CORE
    ]
    return sorted(set(found))


def names_read() -> set[str]:
    """Names that code outside the schema reads: as an attribute, or as a string (a key of a dict of rules or sizes)."""
    found: set[str] = set()
    for path in [*modules().values(), *tracked("jobs/*.py")]:
        if path.name == "schema.py":
            continue
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


NAMES_READ = names_read()


@pytest.mark.parametrize(("section", "name"), options(), ids=lambda value: value)
def test_an_option_is_read_by_somebody(section: str, name: str) -> None:
    assert name in NAMES_READ, (
        f"no code reads {section}.{name}: an option that does nothing is a lie; remove it or use it"
    )


def test_every_option_is_described_or_plain() -> None:
    """JSON Schema of every kind can be made, which editors and `manta schema` need."""
    for kind in schema.KINDS:
        made: dict[str, Any] = recipes.json_schema(kind)
        assert made["properties"]["kind"]["const"] == kind
