"""What is wrong with a sweep before it starts: unknown fields, unfit values, searches that cannot go together."""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from manta import mix
from manta import recipe as recipes
from manta.errors import Problem, RecipeError
from manta.schema import KINDS, After, FinetuneRecipe, TuneRecipe
from manta.sections.search import Hyperband
from manta.tune import draws, figures, population, space
from manta.tune.draws import DISTRIBUTIONS

# What a trial may not vary, and why.
FIXED = {
    "kind": "a sweep has trials of one kind: run one sweep for each",
    "name": "trials are named by their number",
    "output": "trials live in the sweep's own folder",
    "seed": "repeats have other seeds: set search.repeats",
    "resources": "resources never change a result, so there is nothing to find",
    "checkpoint": "checkpoints never change a result, so there is nothing to find",
    "watchdog": "it never changes a result, so there is nothing to find",
    "data.examples": "trials on other examples cannot be compared: run one sweep for each",
    "data.shards": "trials on other shards cannot be compared: run one sweep for each",
    "data.validation": "trials judged by other examples cannot be compared: run one sweep for each",
    "mix": "validation_loss is weighted by its shares, so trials of other mixes cannot be compared: run one sweep for each",
    "model.source": "trials of other models share no lineage: run one sweep for each",
    "after.latency": "trials that are measured in different ways cannot be compared: run one sweep for each",
    "after.evaluate": "trials that are scored in different ways cannot be compared: run one sweep for each",
    "after.compress.resources": "resources never change a result, so there is nothing to find",
}
# Configurations that are validated before anything starts: all of a smaller space, this many of a larger one.
TRIED = 400


def problems(recipe: TuneRecipe) -> Iterator[Problem]:
    """Everything wrong with the mix, with `search` and `after`."""
    if isinstance(first := recipe.first, FinetuneRecipe):
        for problem in mix.problems(first):
            yield Problem(f"trial.{problem.path}", problem.value, problem.remedy)
    yield from figures.problems(recipe)
    yield from population.problems(recipe)
    yield from _together(recipe)
    found = [*_fields(recipe)] or [*_conditions(recipe)]
    found += _values(_sound(recipe) if found else recipe)
    yield from found
    if found:
        return
    unbuilt = [*_built(recipe)]
    yield from unbuilt
    if unbuilt:
        return
    search = recipe.search
    count = space.combinations(search)
    if search.method == "grid":
        if count is None:
            ranges = [path for path, raw in search.space.items() if draws.values(draws.entry(raw)) is None]
            yield Problem(
                f"search.space.{ranges[0]}", None, "a grid needs values: give a choice, or search.method=random"
            )
    elif count is not None and count < search.trials:
        yield Problem(
            "search.trials",
            search.trials,
            f"the space holds only {count} different configurations: set it to {count} or widen the space",
        )


def _together(recipe: TuneRecipe) -> Iterator[Problem]:
    """Settings of the search that exclude each other."""
    search, trial = recipe.search, recipe.trial
    if search.warm_start is not None and search.method != "tpe":
        yield Problem(
            "search.warm_start", search.warm_start, f"{search.method} learns from no results: set search.method=tpe"
        )
    evaluated, at_once = recipe.after.evaluate, recipe.resources.concurrent_trials
    if evaluated is not None and evaluated.evaluate.speed is not None and at_once > 1:
        remedy = "speed is measured while nothing else runs: set resources.concurrent_trials=1, or leave after.evaluate.evaluate.speed out"
        yield Problem("resources.concurrent_trials", at_once, remedy)
    if search.early is None or search.population is not None:
        return
    if trial.kind == "compress":
        yield Problem("search.early", None, "a compression has no steps at which it could be given up: leave it out")
        return
    if len(search.objectives) > 1:
        yield Problem("search.early", None, "trials are given up by one objective: leave it out, or name one objective")
    elif not (objective := next(iter(search.objectives))).startswith("validation_"):
        known = ", ".join(name for name in figures.known(recipe) if name.startswith("validation_"))
        yield Problem(
            "search.early",
            None,
            f"{objective} is known at a trial's end alone: leave it out, or choose one of {known}",
        )
    if trial.stop.steps is None:
        yield Problem("search.early", None, "trials are compared at the same steps: set trial.stop.steps")
    elif "stop.steps" in search.space and isinstance(search.early, Hyperband):
        yield Problem("search.space.stop.steps", None, "brackets need one number of steps for all trials: leave it out")
    elif search.early.first_step >= trial.stop.steps:
        yield Problem(
            "search.early.first_step",
            search.early.first_step,
            f"a trial ends at step {trial.stop.steps}: set it lower, or trial.stop.steps higher",
        )


# --- the space -------------------------------------------------------------------------------------------------------


def _known(recipe: TuneRecipe) -> list[str]:
    fields = recipes.field_paths(KINDS[recipe.trial.kind])
    after = [
        f"{space.AFTER}{path}"
        for path in recipes.field_paths(After)
        if getattr(recipe.after, path.partition(".")[0]) is not None
    ]
    return [path for path in (*fields, *after) if "*" not in path]


def _fields(recipe: TuneRecipe) -> Iterator[Problem]:
    """Fields that there are not, or that may not vary; entries that are no distribution."""
    known = _known(recipe)
    for path, raw in recipe.search.space.items():
        where = f"search.space.{path}"
        fixed = next((name for name in FIXED if path == name or path.startswith(f"{name}.")), None)
        if fixed is not None:
            yield Problem(where, None, f"cannot be searched: {FIXED[fixed]}")
        elif path not in known:
            yield Problem(where, None, "unknown field" + _did_you_mean(path, known, recipe.trial.kind))
        elif (complaint := draws.complaint(raw)) is not None:
            below, value, remedy = complaint
            yield Problem(f"{where}.{below}" if below else where, value, remedy)


def _sound(recipe: TuneRecipe) -> TuneRecipe:
    """The recipe with those entries alone that can be judged by themselves, where others are wrong."""
    wrong = {problem.path.removeprefix("search.space.") for problem in _fields(recipe)}
    kept = {
        path: raw
        for path, raw in recipe.search.space.items()
        if "when" not in raw and not any(one == path or one.startswith(f"{path}.") for one in wrong)
    }
    return recipe.model_copy(update={"search": recipe.search.model_copy(update={"space": kept})})


def _conditions(recipe: TuneRecipe) -> Iterator[Problem]:
    """Conditions on fields that are not searched, on values that never come, or in a circle."""
    fields = recipe.search.space
    for path, raw in fields.items():
        for other, wanted in draws.entry(raw).when.items():
            where = f"search.space.{path}.when.{other}"
            if other not in fields:
                near = difflib.get_close_matches(other, fields, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f": it holds {', '.join(fields)}"
                yield Problem(where, None, f"is no field of the space{hint}")
                continue
            possible = draws.values(draws.entry(fields[other]))
            if possible is None:
                yield Problem(where, None, f"{other} is a range: a condition needs a field with a choice of values")
            elif never := [value for value in wanted if value not in possible]:
                yield Problem(where, never[0], f"never comes: {other} is one of {', '.join(map(str, possible))}")
    try:
        space.entries(recipe.search)
    except ValueError as error:
        yield Problem("search.space", None, str(error))


def _values(recipe: TuneRecipe) -> Iterator[Problem]:
    """Values that the trial's schema refuses, each tried with what its own conditions ask for."""
    for path, raw in recipe.search.space.items():
        found = draws.entry(raw)
        for value in draws.ends(found):
            one = {**_context(recipe, path), path: value}
            # What comes with it counts: a scheme that reads nothing may bring a setting that takes the rows away.
            for problem in _refused(recipe, {**one, **_brought(recipe, one)}) and _refused(recipe, one):
                # A field beside it may be what is refused, such as both batch.samples and batch.tokens.
                remedy = problem.remedy if problem.path == path else f"{problem.path}: {problem.remedy}"
                yield Problem(f"search.space.{path}.{found.name}", value, remedy)


def _context(recipe: TuneRecipe, path: str) -> space.Overrides:
    """A value of every field that `path` waits for, directly or not."""
    found: space.Overrides = {}
    for other, wanted in draws.entry(recipe.search.space[path]).when.items():
        found |= {**_context(recipe, other), other: wanted[0]}
    return found


def _brought(recipe: TuneRecipe, overrides: space.Overrides) -> space.Overrides:
    """The first value of each field that is there because of what `overrides` hold."""
    found: space.Overrides = {}
    for path, raw in recipe.search.space.items():
        one = draws.entry(raw)
        held = one.when and all(other in overrides and overrides[other] in wanted for other, wanted in one.when.items())
        if held and path not in overrides:
            found[path] = draws.ends(one)[0]
    return found


def _built(recipe: TuneRecipe) -> Iterator[Problem]:
    """Configurations that make no valid recipe although each of their values does. Told once for each remedy."""
    told = set()
    for overrides in configurations(recipe, TRIED):
        for problem in _refused(recipe, overrides):
            if (problem.path, problem.remedy) in told:
                continue
            told.add((problem.path, problem.remedy))
            said = ", ".join(f"{path} {value}" for path, value in overrides.items())
            yield Problem(
                "search.space",
                None,
                f"makes an invalid trial ({said}): {problem.path}: {problem.remedy}; or use `when`",
            )


def configurations(recipe: TuneRecipe, at_most: int) -> Iterator[space.Overrides]:
    """All configurations of a small space, ranges by their ends; of a larger one as many as `at_most`, by chance."""
    search = recipe.search
    source = random.Random("configurations that are tried")
    count = 1
    for raw in search.space.values():
        count *= len(draws.ends(draws.entry(raw)))
    if count > at_most:
        for _ in range(at_most):
            yield space.drawn(search, lambda _, one: DISTRIBUTIONS[one.name](one.argument, source.random()))
        return
    choices = {path: {"choice": draws.ends(draws.entry(raw)), **_when(raw)} for path, raw in search.space.items()}
    yield from space.grid(search.model_copy(update={"space": choices}))


def _when(raw: dict[str, Any]) -> dict[str, Any]:
    return {"when": raw["when"]} if "when" in raw else {}


def _refused(recipe: TuneRecipe, overrides: space.Overrides) -> list[Problem]:
    try:
        space.made(recipe, overrides)
    except RecipeError as error:
        return list(error.problems)
    except ValidationError as error:
        return [
            Problem(space.AFTER + ".".join(map(str, item["loc"])), item.get("input"), item["msg"])
            for item in error.errors()
        ]
    return []


def _did_you_mean(path: str, known: list[str], kind: str) -> str:
    leaf = path.rpartition(".")[2]
    near = [field for field in known if field.rpartition(".")[2] == leaf] or difflib.get_close_matches(path, known, n=1)
    return (
        f"; did you mean {near[0]!r}?" if near else f": `manta schema {kind}` lists them ({', '.join(known[:6])} ...)"
    )
