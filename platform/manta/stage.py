"""Runs one recipe to a finished artifact: what is complete is skipped, what broke off is carried on."""

from __future__ import annotations

import errno
import importlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from manta import artifact as artifacts
from manta import recipe as recipes
from manta.artifact import Artifact, Draft
from manta.errors import InputError, MantaError, Problem, RecipeError, StageFailed
from manta.progress import Progress
from manta.schema import PipelineRecipe, Recipe

if TYPE_CHECKING:
    from manta.train.marks import Marks

# kind -> the module of its room. Each has `run(recipe, draft, progress) -> dict` (the figures for the manifest), may
# have `problems(recipe)` (what a schema cannot say, of the recipe alone), `check(recipe, inputs)` (raises InputError
# before anything is started), and `inventory(recipe) -> str` (a cheap
# hash of sources that are not artifacts; raises InputError when they are missing).
ROOMS = {
    "prepare": "manta.data.prepare",
    "pretrain": "manta.train.run",
    "finetune": "manta.train.run",
    "tune": "manta.tune.sweep",
    "compress": "manta.compress.run",
    "evaluate": "manta.evaluate.run",
    "generate": "manta.generate.run",
    "serve": "serving.smoke",
}


def problems(recipe: Recipe) -> list[Problem]:
    """What is wrong with a recipe by itself, beyond what its schema refuses."""
    room = importlib.import_module(ROOMS[recipe.kind])
    return list(room.problems(recipe)) if hasattr(room, "problems") else []


def refuse_problems(recipe: Recipe) -> None:
    """Raise RecipeError with all of `problems`, if there are any."""
    if found := problems(recipe):
        raise RecipeError(f"{recipe.kind} {recipe.name}", found)


class Outcome(NamedTuple):
    artifact: Artifact
    skipped: bool
    seconds: float


def run(recipe: Recipe, progress: Progress, replace: bool = False, marks: Marks | None = None) -> Outcome:
    """Make the artifact of `recipe`, or return it if this very run is complete.

    `marks`: steps at which a training asks whether it is to go on, where it belongs to a sweep.
    Raises InputError before anything starts, StageFailed (resumable) afterwards, GateRefused from a gate.
    """
    started = time.monotonic()
    refuse_problems(recipe)
    room = importlib.import_module(ROOMS[recipe.kind])
    inputs = artifacts.resolve_inputs(recipe)
    inventory = room.inventory(recipe) if hasattr(room, "inventory") else None
    progress.begin(f"{recipe.kind} {recipe.name}", kind=recipe.kind, name=recipe.name)
    with artifacts.draft(recipe, inputs, inventory, replace) as begun:
        if isinstance(begun, Artifact):
            progress.note(f"complete, skipped ({begun.folder.url})", skipped=True)
            progress.end(skipped=True, path=begun.folder.url, fingerprint=begun.fingerprint)
            if hasattr(room, "verdict"):
                room.verdict(recipe, begun)
            return Outcome(begun, True, time.monotonic() - started)
        if hasattr(room, "check"):
            room.check(recipe, inputs)
        if begun.resumed:
            progress.note("an earlier attempt broke off here: carrying on")
        made = _make(room, recipe, begun, progress, marks)
    _leave_page(made, progress)
    seconds = time.monotonic() - started
    progress.end(
        skipped=False,
        path=made.folder.url,
        fingerprint=made.fingerprint,
        metrics=made.metrics,
        seconds=round(seconds, 1),
    )
    if hasattr(room, "verdict"):
        room.verdict(recipe, made)
    return Outcome(made, False, seconds)


def _make(room: Any, recipe: Recipe, begun: Draft, progress: Progress, marks: Marks | None) -> Artifact:
    try:
        return begun.finish(
            room.run(recipe, begun, progress, marks) if marks is not None else room.run(recipe, begun, progress)
        )
    except (MantaError, KeyboardInterrupt):
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StageFailed(
                f"no space left on the disk of {begun.folder.url}: free some, then `manta resume {begun.folder.url}`"
            ) from error
        raise StageFailed(
            f"{recipe.kind} {recipe.name} failed: {error}; then `manta resume {begun.folder.url}`"
        ) from error


def _leave_page(made: Artifact, progress: Progress) -> None:
    """Write the run's page beside what it made. The run is complete without it: a page that cannot be written is told."""
    try:
        importlib.import_module("manta.report.page").write(made.folder.url)
    except OSError as error:
        progress.note(f"no page was written ({error}): `manta report {made.folder.url}` writes it")


def resume(where: str, progress: Progress) -> Outcome:
    """Carry on an unfinished run from the recipe its folder holds. Raises InputError if there is none."""
    folder = artifacts.Folder(artifacts.locate(where, "runs"))
    manifest = artifacts.read_manifest(folder)
    if manifest is None:
        raise InputError(
            f"{folder.url} holds no run (no {artifacts.MANIFEST}): name the folder of a run, such as runs/NAME"
        )
    recipe = recipes.validate(manifest["recipe"], origin=f"{folder.url}/{artifacts.MANIFEST}")
    if isinstance(recipe, PipelineRecipe):
        raise InputError(f"{folder.url} holds a pipeline's recipe: use `manta run` with its file")
    parent = folder.url.rpartition("/")[0]
    # The folder may have been moved with its siblings since: it is its own place that counts.
    return run(recipe.model_copy(update={"output": parent}), progress)
