"""The best trial of a sweep, or its N-th: what it was, what it reached, and the recipe that makes it again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

from manta import recipe as recipes
from manta.errors import InputError
from manta.progress import format_figure
from manta.schema import TuneRecipe
from manta.tune import choice, population, reading
from manta.tune.reading import Line, Sweep

BEST = "best.yaml"  # a recipe that makes the winner again


class Found(NamedTuple):
    """A trial of a sweep by its rank, which counts from 1, and the files of the recipe that makes it again."""

    sweep: Sweep
    rank: int
    line: Line
    files: dict[str, str]  # the recipe; of a population a pipeline and its stages

    def as_json(self) -> dict[str, Any]:
        return {"sweep": self.sweep.folder.url, "rank": self.rank, **self.line, "files": self.files}

    def recipe(self) -> str:
        """The recipe alone; of several files each after its name."""
        if len(self.files) == 1:
            return next(iter(self.files.values()))
        return "---\n".join(f"# {name}\n{text}" for name, text in self.files.items())


def best_of(where: str, rank: int = 1) -> Found:
    """The trial of that rank among those that are complete and keep the constraints: by the first objective, of equals by
    the next ones. Raises InputError where the folder holds no sweep, or too few such trials."""
    sweep = reading.open_sweep(where)
    if rank < 1:
        raise InputError(f"--rank {rank}: 1 is the best trial: give a number from 1 on")
    ranked = choice.ranked(sweep.trials, sweep.recipe.search)
    if rank > len(ranked):
        raise InputError(_too_few(sweep, rank, len(ranked)))
    line = ranked[rank - 1]
    name = f"{sweep.recipe.name}-{'best' if rank == 1 else line['trial']}"
    return Found(sweep, rank, line, recipe_files(sweep.recipe, sweep.trials, line, name))


def recipe_files(recipe: TuneRecipe, trials: Sequence[Line], line: Line, name: str) -> dict[str, str]:
    """File name -> text, BEST first: a trial's recipe, with the same inputs and the same fingerprint, under another name.
    Of a population, where several runs led to it, a pipeline of their recipes, which lie beside it."""
    chosen = ", ".join(f"{path}={json.dumps(value)}" for path, value in line["overrides"].items())
    head = f"# Trial {line['trial']} of the sweep {recipe.name}: {chosen}\n"
    made = [recipes.resolved(one) for one in population.recipes_of(recipe, trials, line)]
    beside: dict[str, str] = {}
    if len(made) > 1:
        beside = {f"best-g{generation}.yaml": _yaml(one) for generation, one in enumerate(made)}
        made = [{"kind": "pipeline", "name": name, "output": recipe.output, "stages": list(beside)}]
    else:
        made[0]["name"] = name
    return {BEST: head + _yaml(made[0]), **beside}


def text(found: Found) -> str:
    """The trial for people: what it changes and reached, its model, and what to run next."""
    sweep, line = found.sweep, found.line
    search, url = sweep.recipe.search, sweep.folder.url
    which = "the best" if found.rank == 1 else f"number {found.rank}"
    so_far = "" if sweep.complete else " so far (the sweep is not finished)"
    shown = [*line["overrides"].items()]
    reached = [(name, _with_spread(line, name)) for name in dict.fromkeys([*search.objectives, *search.constraints])]
    width = max(len(name) for name, _ in [*shown, *reached])
    lines = [f"trial {line['trial']}, {which} of {len(sweep.trials)} trials{so_far}"]
    lines += [f"  {name.ljust(width)}  {_value(value)}" for name, value in shown]
    lines += [f"  {name.ljust(width)}  {value}" for name, value in reached]
    if len(search.objectives) > 1:
        front = ", ".join(one["trial"] for one in choice.pareto(sweep.trials, search))
        lines.append(f"  ranked by {next(iter(search.objectives))}; the Pareto set is {front}")
    place = _place(sweep, line, found.rank)
    kind = sweep.recipe.trial.kind if len(found.files) == 1 else "run"
    rank = f" --rank {found.rank}" if found.rank > 1 else ""
    lines += ["", f"its model: {place}", "to make it again, or to train on from it:"]
    if found.rank == 1 and sweep.folder.exists(BEST):
        recipe = f"{url}/{BEST}"
    else:
        recipe = BEST
        lines.append(f"  manta tune --best-of {url}{rank} --recipe-only > {BEST}")
    lines.append(f"  manta {kind} {recipe}")
    if kind == "finetune":
        lines.append(f"  manta finetune {recipe} model.source={place} name={sweep.recipe.name}-on")
    return "\n".join(lines)


def _place(sweep: Sweep, line: Line, rank: int) -> str:
    """Where the trial's model is; the winner's is that of a finished sweep itself."""
    if sweep.complete and rank == 1:
        return sweep.folder.url
    compressed = f"{reading.TRIALS}/{sweep.runs(line['trial'])[0]}.compress"
    trained = f"{reading.TRIALS}/{sweep.runs(str(line.get('trained_as', line['trial'])))[0]}"
    return f"{sweep.folder.url}/{compressed if sweep.folder.exists(f'{compressed}/model') else trained}"


def _too_few(sweep: Sweep, rank: int, count: int) -> str:
    search, url = sweep.recipe.search, sweep.folder.url
    keep = "keeps" if count == 1 else "keep"
    limits = f" and {keep} the constraints of {', '.join(search.constraints)}" if search.constraints else ""
    holds = f"{count} of its {len(sweep.trials)} trials {'is' if count == 1 else 'are'} complete{limits}"
    if count:
        return f"--rank {rank}: {url}: {holds}: give a rank from 1 to {count}"
    remedy = f"wait for the first one; where the sweep broke off, `manta resume {url}` carries it on"
    remedy = "widen search.space or search.constraints" if sweep.complete else remedy
    return f"{url} has no best trial: {holds}: {remedy}; `manta report {url}` shows them all"


def _with_spread(line: Line, name: str) -> str:
    about = f" ± {format_figure(line['spread'][name])}" if name in line.get("spread", {}) else ""
    return f"{format_figure(line['figures'][name])}{about}"


def _value(value: Any) -> str:
    return format_figure(value) if isinstance(value, int | float | str) else json.dumps(value)


def _yaml(raw: dict[str, Any]) -> str:
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)
