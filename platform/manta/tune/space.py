"""Search spaces: what a sweep tries, as a pure function of the recipe."""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from manta import recipe as recipes
from manta.errors import Problem, RecipeError
from manta.schema import FinetuneRecipe, TuneRecipe
from manta.sections.train import Search

# What a trial may not vary, and why.
FIXED = {
    "kind": "a trial is always a fine-tuning run",
    "name": "trials are named by their number",
    "output": "trials live in the sweep's own folder",
    "resources": "resources never change a result, so there is nothing to find",
    "checkpoint": "checkpoints never change a result, so there is nothing to find",
    "data.examples": "trials on other examples cannot be compared: run one sweep for each",
    "data.validation": "trials judged by other examples cannot be compared: run one sweep for each",
    "mix": "validation_loss is weighted by its shares, so trials of other mixes cannot be compared: run one sweep for each",
    "model.source": "trials of other models share no lineage: run one sweep for each",
}
# Fields of a sweep that its trials do not have.
SWEEP_ONLY = ("search",)


class Trial(NamedTuple):
    """One configuration: its name (a number), what differs from the sweep's recipe, and the whole recipe."""

    name: str
    overrides: dict[str, Any]
    recipe: FinetuneRecipe


Draw = Callable[[Any, float], Any]  # (the distribution's argument, a number in [0, 1)) -> value


def draw_choice(values: list[Any], unit: float) -> Any:
    return values[int(unit * len(values))]


def draw_uniform(bounds: list[float], unit: float) -> float:
    low, high = bounds
    return _rounded(low + unit * (high - low))


def draw_loguniform(bounds: list[float], unit: float) -> float:
    low, high = bounds
    return _rounded(math.exp(math.log(low) + unit * (math.log(high) - math.log(low))))


def draw_randint(bounds: list[int], unit: float) -> int:
    """Both bounds are possible."""
    low, high = bounds
    return low + int(unit * (high - low + 1))


DISTRIBUTIONS: dict[str, Draw] = {
    "choice": draw_choice,
    "uniform": draw_uniform,
    "loguniform": draw_loguniform,
    "randint": draw_randint,
}


def sample(search: Search, seed: int) -> list[dict[str, Any]]:
    """The overrides of every trial, {path: value}, all different; a pure function of the space, the count and the seed.

    Latin hypercube sampling (McKay et al. 1979): each field's range is cut into as many parts as there are trials and
    each part is used once, in shuffled order, so that a few trials already cover the range. Expects a space that
    `problems` has nothing to say about.
    """
    strata = {path: list(range(search.trials)) for path in search.space}
    for path, order in strata.items():
        random.Random(f"{seed}/{path}").shuffle(order)
    drawn: list[dict[str, Any]] = []
    for trial in range(search.trials):
        source = random.Random(f"{seed}/{trial}")
        units = {path: (strata[path][trial] + source.random()) / search.trials for path in search.space}
        overrides = _draw(search, units)
        while overrides in drawn:  # ends: there are at least as many configurations as trials
            overrides = _draw(search, {path: source.random() for path in search.space})
        drawn.append(overrides)
    return drawn


def trials(
    recipe: TuneRecipe,
    examples: str,
    model: str,
    output: str,
    validation: str | None = None,
    beside: Mapping[str, str] | None = None,
) -> list[Trial]:
    """Every trial, in order. `examples`, `model`, `validation` are where the inputs are, `beside` those of a mix by their
    roles; the trials' artifacts go below `output`."""
    made = []
    for number, overrides in enumerate(sample(recipe.search, recipe.seed)):
        raw = _base(recipe)
        raw["data"]["examples"], raw["model"]["source"] = examples, model
        raw["data"]["validation"] = validation
        for role, place in (beside or {}).items():
            recipes.set_path(raw, role, place)
        raw |= {"name": f"{number:03d}", "output": output}
        for path, value in overrides.items():
            recipes.set_path(raw, path, value)
        whole = recipes.validate(raw, origin=f"trial {raw['name']}", kind="finetune")
        made.append(Trial(raw["name"], overrides, cast(FinetuneRecipe, whole)))
    return made


def problems(recipe: TuneRecipe) -> Iterator[Problem]:
    """Everything wrong with `search.space`: unknown fields, unfit values, ranges that are none, too few combinations."""
    search = recipe.search
    sound = True
    for path, distribution in search.space.items():
        found = list(_entry_problems(recipe, path, distribution))
        sound = sound and not found
        yield from found
    if sound and (count := combinations(search)) is not None and count < search.trials:
        yield Problem(
            "search.trials",
            search.trials,
            f"the space holds only {count} different configurations: set it to {count} or widen the space",
        )


def combinations(search: Search) -> int | None:
    """How many different configurations the space holds; None if some field is continuous."""
    count = 1
    for distribution in search.space.values():
        [(name, argument)] = distribution.items()
        if name in ("uniform", "loguniform"):
            return None
        count *= len(argument) if name == "choice" else argument[1] - argument[0] + 1
    return count


def _entry_problems(recipe: TuneRecipe, path: str, distribution: dict[str, Any]) -> Iterator[Problem]:
    where = f"search.space.{path}"
    known = [field for field in recipes.field_paths(FinetuneRecipe) if "*" not in field]
    for fixed, reason in FIXED.items():
        if path == fixed or path.startswith(f"{fixed}."):
            yield Problem(where, None, f"cannot be searched: {reason}")
            return
    if path not in known:
        yield Problem(where, None, "unknown field" + _did_you_mean(path, known))
        return
    if len(distribution) != 1 or (name := next(iter(distribution))) not in DISTRIBUTIONS:
        near = difflib.get_close_matches(next(iter(distribution), ""), DISTRIBUTIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        yield Problem(where, distribution, f"give exactly one of {', '.join(DISTRIBUTIONS)}{hint}")
        return
    argument = distribution[name]
    if complaint := _argument_complaint(name, argument):
        yield Problem(f"{where}.{name}", argument, complaint)
        return
    values = argument if name == "choice" else [DISTRIBUTIONS[name](argument, unit) for unit in (0.0, 1 - 1e-12)]
    for value in values:
        raw = _base(recipe)
        recipes.set_path(raw, path, value)
        try:
            recipes.validate(raw)
        except RecipeError as error:
            # A field beside it may be what is refused, such as both batch.samples and batch.tokens.
            yield from (Problem(f"{where}.{name}", value, _remedy(problem, path)) for problem in error.problems)


def _remedy(problem: Problem, path: str) -> str:
    return problem.remedy if problem.path == path else f"{problem.path}: {problem.remedy}"


def _argument_complaint(name: str, argument: Any) -> str | None:
    if name == "choice":
        if not isinstance(argument, list) or not argument:
            return "needs a list of values, such as [1, 2]"
        return "holds a value twice: keep one" if any(argument.count(value) > 1 for value in argument) else None
    number = int if name == "randint" else (int, float)
    if not (
        isinstance(argument, list)
        and len(argument) == 2
        and all(isinstance(bound, number) and not isinstance(bound, bool) for bound in argument)
    ):
        return (
            "needs two whole numbers: [lowest, highest]"
            if name == "randint"
            else "needs two numbers: [lowest, highest]"
        )
    if not (math.isfinite(argument[0]) and math.isfinite(argument[1]) and argument[0] < argument[1]):
        return "the first number must be below the second"
    return "needs numbers above 0" if name == "loguniform" and argument[0] <= 0 else None


def _did_you_mean(path: str, known: list[str]) -> str:
    leaf = path.rpartition(".")[2]
    near = [field for field in known if field.rpartition(".")[2] == leaf] or difflib.get_close_matches(path, known, n=1)
    return (
        f"; did you mean {near[0]!r}?" if near else f": `manta schema finetune` lists them ({', '.join(known[:6])} ...)"
    )


def _base(recipe: TuneRecipe) -> dict[str, Any]:
    """The sweep's recipe as that of one fine-tuning run, unvalidated."""
    raw = {key: value for key, value in recipes.resolved(recipe).items() if key not in SWEEP_ONLY}
    raw["kind"] = "finetune"
    # A trial may have another method, and does not read the settings of this one.
    raw["adapt"] = recipe.adapt.model_dump(mode="json", exclude_defaults=True)
    raw["resources"] = {key: value for key, value in raw["resources"].items() if key != "concurrent_trials"}
    return raw


def _draw(search: Search, units: dict[str, float]) -> dict[str, Any]:
    drawn = {}
    for path, distribution in search.space.items():
        [(name, argument)] = distribution.items()
        drawn[path] = DISTRIBUTIONS[name](argument, units[path])
    return drawn


def _rounded(value: float) -> float:
    """Four significant digits: a setting that a person can read and type again."""
    return float(f"{value:.4g}")
