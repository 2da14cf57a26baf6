"""What a sweep's folder tells of its trials, whether the sweep is finished, under way, or broke off."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from manta import artifact as artifacts
from manta import recipe as recipes
from manta.errors import InputError
from manta.schema import TuneRecipe
from manta.storage import Folder
from manta.tune import choice, figures

TABLE = "trials.jsonl"
SO_FAR = "work/trials.jsonl"  # the same of a sweep that is not finished; for people, the sweep itself never reads it
TRIALS = "trials"
Line = dict[str, Any]  # of the table of trials
# Statuses in the order in which a table shows them.
STATUSES = ("complete", "under way", "given up", "failed")


class Sweep(NamedTuple):
    """A sweep's folder, its recipe, and its trials in the order in which they started."""

    folder: Folder
    recipe: TuneRecipe
    trials: list[Line]
    metrics: dict[str, Any]  # {} while it is not complete
    complete: bool

    def runs(self, trial: str) -> list[str]:
        """The runs of a trial: itself, or its repeats."""
        repeats = self.recipe.search.repeats
        return [trial] if repeats == 1 else [f"{trial}-{repeat}" for repeat in range(repeats)]


def open_sweep(where: str) -> Sweep:
    """Read a sweep, finished or not. Raises InputError if the folder holds none."""
    folder = Folder(artifacts.locate(where, "runs"))
    manifest = artifacts.read_manifest(folder)
    if manifest is None or manifest["kind"] != "tune":
        holds = f"a {manifest['kind']} run" if manifest is not None else f"no run (no {artifacts.MANIFEST})"
        above = "; name the sweep that it is a trial of" if f"/{TRIALS}/" in folder.url else ""
        raise InputError(
            f"{folder.url} holds {holds}, but a sweep is needed: name a folder that `manta tune` made, such as "
            f"runs/quickstart/tuned{above}"
        )
    return read(folder, manifest)


def read(folder: Folder, manifest: dict[str, Any]) -> Sweep:
    """The sweep whose manifest this is; without trials where none has started. Raises InputError for a damaged table."""
    recipe = recipes.validate(manifest["recipe"], origin=f"{folder.url}/{artifacts.MANIFEST}", kind="tune")
    assert isinstance(recipe, TuneRecipe)
    complete = artifacts.is_complete(folder)
    return Sweep(folder, recipe, _table(folder, complete), dict(manifest["metrics"]), complete)


def _table(folder: Folder, complete: bool) -> list[Line]:
    name = TABLE if complete or not folder.exists(SO_FAR) else SO_FAR
    if not folder.exists(name):
        return []
    try:
        return [json.loads(line) for line in folder.read_text(name).splitlines()]
    except ValueError as error:
        raise InputError(f"{folder.url}/{name} is damaged ({error}): run the sweep again") from None


def order(sweep: Sweep) -> list[Line]:
    """The trials as a table shows them: the allowed ones from the best on, then the rest of them by status and number."""
    first = choice.ranked(sweep.trials, sweep.recipe.search)
    names = {line["trial"] for line in first}
    rest = [line for line in sweep.trials if line["trial"] not in names]
    return [*first, *sorted(rest, key=lambda line: (_place(line["status"]), -(line["step"] or 0), line["trial"]))]


def _place(status: str) -> int:
    return STATUSES.index(status) if status in STATUSES else len(STATUSES)


def line_of(run: Folder) -> Line | None:
    """The line of the table of trials for a trial's folder, or that of what follows it; None for any other folder."""
    sweep, trials, name = run.url.rpartition(f"/{TRIALS}/")
    if not trials or "/" in name:
        return None
    folder = Folder(sweep)
    manifest = artifacts.read_manifest(folder)
    if manifest is None or manifest["kind"] != "tune":
        return None
    run_name = name.partition(".")[0]
    lines = {line["trial"]: line for line in _table(folder, artifacts.is_complete(folder))}
    return lines.get(run_name) or lines.get(run_name.rpartition("-")[0])


# --- curves ----------------------------------------------------------------------------------------------------------


class Curve(NamedTuple):
    """The validations of one run: (step, figure), rising by step."""

    trial: str
    run: str
    points: list[tuple[int, float]]


def shown_figure(sweep: Sweep) -> str:
    """The figure of validations that curves show: that of the first objective that validations have, else the loss."""
    return next((name for name in sweep.recipe.search.objectives if name in figures.DURING), "validation_loss")


def curves(sweep: Sweep) -> list[Curve]:
    """Of each run that has validated, in the order of the trials. Steps of a generation come after those of its parents."""
    key, found = figures.DURING[shown_figure(sweep)], []
    for line in sweep.trials:
        for run in sweep.runs(line["trial"]):
            before = _steps_before(sweep, line["trial"])
            points = [(step + before, value) for step, value in _validations(sweep.folder, run, key)]
            if points:
                found.append(Curve(line["trial"], run, points))
    return found


def _validations(folder: Folder, run: str, key: str) -> list[tuple[int, float]]:
    try:
        text = folder.read_text(f"{TRIALS}/{run}/metrics.jsonl")
    except FileNotFoundError:
        return []
    # Few lines are validations; a last one that was cut off has no end.
    whole = (line for line in text.splitlines(keepends=True) if line.endswith("\n") and '"validation"' in line)
    records = (json.loads(line) for line in whole)
    return [(record["step"], float(record[key])) for record in records if record.get(key) is not None]


def _steps_before(sweep: Sweep, trial: str) -> int:
    """Steps that were trained in the generations before, where the trial is one of a population."""
    population, stop = sweep.recipe.search.population, getattr(sweep.recipe.trial, "stop", None)
    generation = re.search(r"-g(\d+)$", trial)
    if population is None or generation is None or stop is None or stop.steps is None:
        return 0
    return int(generation[1]) * (stop.steps // population.generations)


def thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most so many of a curve's points, evenly spread; the first and the last are kept."""
    if len(points) <= most:
        return list(points)
    share = (len(points) - 1) / (most - 1)
    return [points[round(number * share)] for number in range(most)]
