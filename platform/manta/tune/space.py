"""Search spaces: which configurations there are, drawn by chance or in order, and the recipe that each of them makes."""

from __future__ import annotations

import copy
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from manta import recipe as recipes
from manta.schema import After, CompressRecipe, FinetuneRecipe, PretrainRecipe, TuneRecipe
from manta.sections.search import Search
from manta.tune.draws import DISTRIBUTIONS, Entry, entry, values

Overrides = dict[str, Any]  # field of the trial's recipe -> value
TrialRecipe = PretrainRecipe | FinetuneRecipe | CompressRecipe
AFTER = "after."  # how paths begin that are not the trial's own


class Made(NamedTuple):
    """What a configuration means: the run's name, its training (or compression), and what follows that.

    Runs that differ only in what follows share one training, which has the name of the first of them.
    """

    recipe: TrialRecipe
    after: After
    name: str


def entries(search: Search) -> dict[str, Entry]:
    """The fields in an order in which each comes after those that its `when` names."""
    left = {path: entry(raw) for path, raw in search.space.items()}
    ordered: dict[str, Entry] = {}
    while left:
        ready = [path for path, found in left.items() if not set(found.when) & set(left)]
        if not ready:
            raise ValueError(f"the conditions of {', '.join(sorted(left))} wait for each other")
        ordered |= {path: left.pop(path) for path in ready}
    return ordered


def drawn(search: Search, draw: Callable[[str, Entry], Any]) -> Overrides:
    """A configuration: a value by `draw(path, entry)` for each field that the values before it let be there."""
    found: Overrides = {}
    for path, one in entries(search).items():
        if all(other in found and found[other] in wanted for other, wanted in one.when.items()):
            found[path] = draw(path, one)
    return {path: found[path] for path in search.space if path in found}  # as the recipe names them


def sample(search: Search, seed: int) -> list[Overrides]:
    """The configurations of a random search, all different; a pure function of the space, the count and the seed.

    Latin hypercube sampling (McKay et al. 1979): each field's range is cut into as many parts as there are trials and
    each part is used once, in shuffled order, so that a few trials already cover the range.
    """
    strata = {path: list(range(search.trials)) for path in search.space}
    for path, order in strata.items():
        random.Random(f"{seed}/{path}").shuffle(order)
    found: list[Overrides] = []
    for trial in range(search.trials):
        source = random.Random(f"{seed}/{trial}")
        units = {path: (strata[path][trial] + source.random()) / search.trials for path in search.space}
        overrides = drawn(search, _by(units))
        while overrides in found:  # ends: there are at least as many configurations as trials
            overrides = drawn(search, _by({path: source.random() for path in search.space}))
        found.append(overrides)
    return found


def grid(search: Search) -> Iterator[Overrides]:
    """Every configuration of a space without ranges, each once; the last field varies fastest."""
    fields = {path: values(entry(raw)) or [] for path, raw in search.space.items()}
    seen: set[str] = set()
    for chosen in itertools.product(*fields.values()):
        units = dict(zip(fields, chosen, strict=True))
        overrides = drawn(search, lambda path, _, units=units: units[path])  # type: ignore[misc]
        key = json.dumps(overrides)
        if key not in seen:  # a field that is not there has no values to tell apart
            seen.add(key)
            yield overrides


def combinations(search: Search) -> int | None:
    """How many different configurations the space holds; None if some field is continuous."""
    if any(values(entry(raw)) is None for raw in search.space.values()):
        return None
    if not any("when" in raw for raw in search.space.values()):
        count = 1
        for raw in search.space.values():
            count *= len(values(entry(raw)) or [])
        return count
    return sum(1 for _ in grid(search))


def unplaced(recipe: TuneRecipe, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """{"trial": ..., "after": ...} of a configuration, unvalidated, without a name and a place."""
    raw: dict[str, Any] = {
        "trial": copy.deepcopy(recipe.trial.model_dump(mode="json")),
        "after": recipe.after.model_dump(mode="json"),
    }
    if "adapt" in raw["trial"]:  # a trial may have another method, and does not read the settings of this one
        raw["trial"]["adapt"] = recipe.trial.adapt.model_dump(mode="json", exclude_defaults=True)  # type: ignore[union-attr]
    for path, value in overrides.items():
        recipes.set_path(raw, path if path.startswith(AFTER) else f"trial.{path}", value)
    if (population := recipe.search.population) is not None and raw["trial"].get("stop", {}).get("steps"):
        raw["trial"]["stop"]["steps"] //= population.generations  # of one generation
    return raw


def made(
    recipe: TuneRecipe,
    overrides: Mapping[str, Any],
    name: str = "000",
    output: str = "runs",
    seed: int | None = None,
    places: Mapping[str, str] | None = None,
    parent: str | None = None,
    trained_as: str | None = None,
) -> Made:
    """The recipe of a configuration. Raises RecipeError.

    `places`: the sweep's inputs by their role, as paths. `parent`: the artifact whose model it starts from instead of its
    own. `trained_as`: the run whose training it shares.
    """
    raw = unplaced(recipe, overrides)
    for role, place in (places or {}).items():
        if role.startswith(("trial.", AFTER)) and _there(raw, role):
            recipes.set_path(raw, role, place)
    if parent is not None:
        raw["trial"]["model"] = {"source": parent}
    named = {"name": trained_as or name, "output": output, "seed": recipe.seed if seed is None else seed}
    whole = raw["trial"] | named
    found = recipes.validate(whole, origin=f"trial {name}", kind=recipe.trial.kind)
    assert isinstance(found, TrialRecipe)
    return Made(found, After.model_validate(raw["after"]), name)


def _there(raw: Mapping[str, Any], role: str) -> bool:
    """Whether the section of an input is there: a configuration may rule it out, such as calibration where nothing reads it."""
    node: Any = raw
    for key in role.split(".")[:-1]:
        node = node[int(key)] if isinstance(node, list) else node.get(key)
        if node is None:
            return False
    return True


def _by(units: Mapping[str, float]) -> Callable[[str, Entry], Any]:
    return lambda path, one: DISTRIBUTIONS[one.name](one.argument, units[path])
