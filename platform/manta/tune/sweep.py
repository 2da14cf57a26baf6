"""The sweep: Ray Tune runs the trials, each an ordinary run with an artifact of its own; the best one wins."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from manta import artifact as artifacts
from manta import cluster
from manta import recipe as recipes
from manta.artifact import Draft, Resolved
from manta.errors import InputError, Problem, StageFailed
from manta.progress import Progress
from manta.schema import TuneRecipe
from manta.storage import Folder
from manta.tune import board, checks, choice, launch, space, study
from manta.tune.best import recipe_files
from manta.tune.keeper import Plan
from manta.tune.reading import TABLE
from manta.tune.study import Earlier

WINNINGS = ("model", "adapter")  # what of the best trial becomes the sweep's own result
CHECKED = 64  # different trials whose inputs are looked at before anything starts


def problems(recipe: TuneRecipe) -> Iterator[Problem]:
    """What is wrong with the objectives and the space."""
    yield from checks.problems(recipe)


def check(recipe: TuneRecipe, inputs: dict[str, Resolved]) -> None:
    """Raise InputError for what is wrong with the examples or the model, before anything starts."""
    if recipe.search.warm_start is not None:
        _earlier(recipe, inputs)
    if recipe.trial.kind == "compress":
        return  # its own check asks for a calibration that a trial brings
    from manta.train import run as training

    own = {role.removeprefix("trial."): found for role, found in inputs.items() if role.startswith("trial.")}
    places = {role: found.path for role, found in inputs.items()}
    seen = []
    for overrides in checks.configurations(recipe, CHECKED):
        one = space.made(recipe, overrides, places=places).recipe
        same = {**recipes.settings(one), "optimizer": None, "schedule": None}
        if same not in seen:  # trials that differ in nothing the inputs have to do with need one check
            seen.append(same)
            training.check(one, own)


def run(recipe: TuneRecipe, draft: Draft, progress: Progress) -> dict[str, Any]:
    """Run what the search wants of trials, and copy the best one's model. Returns the figures for the manifest.

    A trial that fails is recorded with its reason and does not end the sweep. Raises StageFailed if all of them fail.
    """
    workers, cpus, gpus = _needs(recipe)
    cluster.connect(recipe.resources.address, minimum_cpus=workers * cpus)
    cluster.check_fits(workers, cpus, gpus)
    at_once = room(recipe, workers, cpus, gpus)
    progress.note(
        f"up to {recipe.search.trials} trials, {at_once} at once, {workers} worker{'s' * (workers != 1)} each"
    )
    places = {role: found.path for role, found in draft.inputs.items()}
    earlier = tuple(_earlier(recipe, draft.inputs))
    plan = Plan(recipes.resolved(recipe), places, draft.folder.url, at_once, earlier)
    with cluster.relay(board.Board(progress)) as mailbox:
        table = launch.run(plan, at_once, mailbox, progress)
    if table["broken"]:
        raise StageFailed(f"tune {recipe.name} stopped: {table['broken']}; then `manta resume {draft.folder.url}`")
    trials = table["trials"]
    draft.folder.write_text(TABLE, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in trials))
    best = choice.best(trials, recipe.search)
    if best is None:
        raise StageFailed(_nothing(recipe, trials, draft.folder.url))
    progress.note(board.table(trials, recipe.search, best))
    _take(draft.folder, recipe, best)
    for name, text in recipe_files(recipe, trials, best, f"{recipe.name}-best").items():
        draft.folder.write_text(name, text)
    _tidy(draft.folder)
    return _figures(recipe, draft.folder, table, best)


def room(recipe: TuneRecipe, workers: int, cpus_per_worker: int, gpus_per_worker: int) -> int:
    """Runs that may train at once without waiting for each other's workers for ever; at least one."""
    import ray

    after: list[Any] = [recipe.after.compress, recipe.after.evaluate]
    # What follows a trial must find room while the others wait at their marks for its figures.
    each = max(workers * cpus_per_worker, *(one.resources.cpus for one in after if one is not None), 1)
    found = cluster.total_cpus() // each
    if gpus_per_worker:
        found = min(found, int(ray.cluster_resources().get("GPU", 0)) // (workers * gpus_per_worker))
    search = recipe.search
    return max(1, min(recipe.resources.concurrent_trials, search.trials * search.repeats, found))


def _needs(recipe: TuneRecipe) -> tuple[int, int, int]:
    resources: Any = recipe.trial.resources
    if recipe.trial.kind == "compress":
        return 1, resources.cpus, 0
    return resources.workers, resources.cpus_per_worker, resources.gpus_per_worker


def _earlier(recipe: TuneRecipe, inputs: dict[str, Resolved]) -> list[Earlier]:
    """The complete trials of the sweep that this one starts from, as far as they lie in its space."""
    if (found := inputs.get("search.warm_start")) is None:
        return []
    lines = [json.loads(line) for line in Folder(found.path).read_text(TABLE).splitlines()]
    names = {**recipe.search.objectives, **recipe.search.constraints}
    fitting = [
        Earlier(line["overrides"], line["figures"])
        for line in lines
        if line["status"] == "complete"
        and set(names) <= set(line["figures"])
        and study.fits(recipe.search, line["overrides"])
    ]
    if not fitting:
        raise InputError(
            f"search.warm_start = {recipe.search.warm_start!r}: none of its {len(lines)} trials is complete, has the figures "
            f"{', '.join(names)} and lies in this space: leave it out, or widen search.space"
        )
    return fitting


def _nothing(recipe: TuneRecipe, trials: Sequence[dict[str, Any]], url: str) -> str:
    failed = [line for line in trials if line["status"] == "failed"]
    if len(failed) == len(trials):
        listed = "\n  ".join(f"trial {line['trial']}: {line['reason']}" for line in failed)
        return (
            f"tune {recipe.name}: all {len(trials)} trials failed:\n  {listed}\n"
            f"delete {url}/failures to try them again, then `manta resume {url}`"
        )
    limits = ", ".join(recipe.search.constraints)
    return f"tune {recipe.name}: no complete trial keeps search.constraints ({limits}): {url}/{TABLE} has their figures"


# --- what is left ----------------------------------------------------------------------------------------------------


def _run_of(recipe: TuneRecipe, line: dict[str, Any]) -> str:
    """The run of a trial: the first repeat's."""
    return str(line["trial"]) if recipe.search.repeats == 1 else f"{line['trial']}-0"


def _training_of(recipe: TuneRecipe, line: dict[str, Any]) -> str:
    """The run that trained it, which is an earlier trial's where they differ only in what follows the training."""
    return _run_of(recipe, {"trial": line.get("trained_as", line["trial"])})


def _take(folder: Folder, recipe: TuneRecipe, best: dict[str, Any]) -> None:
    """Copy what the best trial made; on a local disk by hard links, which take no room."""
    run = _run_of(recipe, best)
    compressed = folder / f"trials/{run}.compress"
    winner = compressed if compressed.exists("model") else folder / f"trials/{_training_of(recipe, best)}"
    for name in WINNINGS:
        if not winner.exists(name):
            continue
        with winner.local(name) as made, folder.staged(name) as place:
            shutil.copytree(made, place, copy_function=_link_or_copy, dirs_exist_ok=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another filesystem, or one without hard links
        shutil.copy2(source, target)


def _tidy(folder: Folder) -> None:
    """Drop what only a run that is still training needs."""
    folder.clear("work")
    for name in sorted({file.split("/")[0] for file in (folder / "trials").files()}):
        for scratch in ("checkpoints", "work"):
            (folder / f"trials/{name}").clear(scratch)


def _figures(recipe: TuneRecipe, folder: Folder, table: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    trials = table["trials"]
    count = {status: sum(line["status"] == status for line in trials) for status in ("failed", "given up")}
    metrics = artifacts.open_artifact(_training_of(recipe, best), f"{folder.url}/trials").metrics
    shown = ("validation_loss", "validation_perplexity", "validation_score", "final_loss", "steps", "tokens")
    failed = {line["trial"]: line["reason"] for line in trials if line["status"] == "failed"}
    several = len(recipe.search.objectives) > 1
    return {
        "trials": len(trials),
        "failed_trials": count["failed"],
        "given_up_trials": count["given up"],
        "best_trial": best["trial"],
        "best_overrides": best["overrides"],
        "objectives": {name: best["figures"][name] for name in recipe.search.objectives},
        **({"pareto": [line["trial"] for line in choice.pareto(trials, recipe.search)]} if several else {}),
        **({"importance": table["importance"]} if table["importance"] else {}),
        **({"out_of_budget": True} if table["out_of_budget"] else {}),
        **{name: metrics[name] for name in shown if name in metrics},
        **({"failures": failed} if failed else {}),
    }
