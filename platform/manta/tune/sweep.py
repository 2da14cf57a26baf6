"""The sweep: Ray Tune runs the trials, each an ordinary fine-tuning run with an artifact of its own; the best one wins."""

from __future__ import annotations

import fcntl
import functools
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any

from manta import artifact as artifacts
from manta import cluster, mix, stage
from manta import recipe as recipes
from manta.artifact import Draft, Resolved
from manta.errors import MantaError, Problem, StageFailed
from manta.progress import Progress, format_figure
from manta.schema import FinetuneRecipe, TuneRecipe
from manta.storage import Folder
from manta.train import run as training
from manta.tune import board, space
from manta.tune.space import Trial

METRICS = ("validation_loss", "validation_score", "final_loss", "validation_perplexity", "tokens_per_second")
OF_MIXES = ("validation_loss", "final_loss", "tokens_per_second")  # scores of several tasks have no mean
TABLE = "trials.jsonl"
WINNINGS = ("model", "adapter")  # what of the best trial becomes the sweep's own result
# Ray Tune's own tables, files and signal handlers are not wanted: stdout and Ctrl-C belong to the command line.
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
LOCK_SECONDS = 60.0


def problems(recipe: TuneRecipe) -> Iterator[Problem]:
    """What is wrong with the mix, the metric and the space."""
    yield from mix.problems(recipe)
    known = OF_MIXES + tuple(f"validation_loss_{name}" for name in mix.names(recipe)) if recipe.mix else METRICS
    if recipe.search.metric not in known:
        yield Problem("search.metric", recipe.search.metric, f"choose one of {', '.join(known)}")
    yield from space.problems(recipe)


def check(recipe: TuneRecipe, inputs: dict[str, Resolved]) -> None:
    """Raise InputError for what is wrong with the examples or the model, before anything starts."""
    seen = []
    for trial in _plan(recipe, inputs, recipe.output):
        same = {**recipes.settings(trial.recipe), "seed": 0, "optimizer": None, "schedule": None}
        if same not in seen:  # trials that differ in nothing the inputs have to do with need one check
            seen.append(same)
            training.check(trial.recipe, inputs)


def run(recipe: TuneRecipe, draft: Draft, progress: Progress) -> dict[str, Any]:
    """Run the trials that are not complete, and copy the best one's model. Returns the figures for the manifest.

    A trial that fails is recorded with its reason and does not end the sweep. Raises StageFailed if all of them fail.
    """
    resources = recipe.resources
    cluster.connect(resources.address, minimum_cpus=resources.workers * resources.cpus_per_worker)
    cluster.check_fits(resources.workers, resources.cpus_per_worker, resources.gpus_per_worker)
    planned = _plan(recipe, draft.inputs, f"{draft.folder.url}/trials")
    missing = [trial for trial in planned if _finished(trial) is None]
    if len(missing) < len(planned):
        progress.note(f"{len(planned) - len(missing)} of {len(planned)} trials are complete already")
    reasons = _run_trials(recipe, draft.folder, missing, len(planned), progress) if missing else {}
    results = [_result(trial, recipe, reasons) for trial in planned]
    best = choose(results, recipe.search.mode)
    if best is None:
        listed = "\n  ".join(f"trial {result['trial']}: {result['reason']}" for result in results)
        raise StageFailed(
            f"tune {recipe.name}: all {len(results)} trials failed:\n  {listed}\nthen `manta resume {draft.folder.url}`"
        )
    progress.note(board.table(results, recipe.search.metric, best))
    _take(draft.folder, best)
    draft.folder.write_text(TABLE, "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in results))
    _tidy(draft.folder, planned)
    figures = artifacts.open_artifact(best["trial"], f"{draft.folder.url}/trials").metrics
    failed = {result["trial"]: result["reason"] for result in results if result["status"] != "complete"}
    return {
        "trials": len(results),
        "failed_trials": len(failed),
        "best_trial": best["trial"],
        "best_overrides": best["overrides"],
        **{
            name: figures[name]
            for name in (
                "validation_loss",
                "validation_perplexity",
                "validation_score",
                "final_loss",
                "steps",
                "tokens",
            )
            if name in figures
        },
        **({"failures": failed} if failed else {}),
    }


def choose(results: Sequence[dict[str, Any]], mode: str) -> dict[str, Any] | None:
    """The complete result with the best metric, the earlier one of equals; None if no trial is complete."""
    complete = [result for result in results if result["status"] == "complete"]
    sign = 1 if mode == "min" else -1
    return min(complete, key=lambda result: sign * result["metric"], default=None)


def concurrency(
    wanted: int, todo: int, workers: int, cpus_per_worker: int, gpus_per_worker: int, cpus: int, gpus: int
) -> int:
    """Trials that may run at once without waiting for each other's workers for ever; at least one."""
    room = cpus // (workers * cpus_per_worker)
    if gpus_per_worker:
        room = min(room, gpus // (workers * gpus_per_worker))
    return max(1, min(wanted, todo, room))


# --- running ---------------------------------------------------------------------------------------------------------


def _plan(recipe: TuneRecipe, inputs: dict[str, Resolved], output: str) -> list[Trial]:
    other = inputs.get("data.validation")
    examples, model = inputs["data.examples"].path, inputs["model.source"].path
    beside = {role: item.path for role, item in inputs.items() if role.startswith("mix.")}
    return space.trials(recipe, examples, model, output, other.path if other else None, beside)


def _finished(trial: Trial) -> artifacts.Artifact | None:
    """The trial's artifact, if it is complete. The sweep's folder holds trials of this very sweep only."""
    folder = Folder(f"{trial.recipe.output}/{trial.name}")
    if not artifacts.is_complete(folder):
        return None
    return artifacts.open_artifact(trial.name, trial.recipe.output)


def _run_trials(
    recipe: TuneRecipe, folder: Folder, missing: list[Trial], total: int, progress: Progress
) -> dict[str, str]:
    """Let Ray Tune run the missing trials; returns why those that failed did, by name."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import ray
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    resources = recipe.resources
    at_once = concurrency(
        resources.concurrent_trials,
        len(missing),
        resources.workers,
        resources.cpus_per_worker,
        resources.gpus_per_worker,
        cluster.total_cpus(),
        int(ray.cluster_resources().get("GPU", 0)),
    )
    progress.note(
        f"{len(missing)} trials, {at_once} at once, {resources.workers} worker{'s' * (resources.workers != 1)} each"
    )
    shown = board.Board(progress, done=total - len(missing), total=total, mode=recipe.search.mode)
    packed = {trial.name: _packed(trial, recipe.search.metric) for trial in missing}
    folder.clear("work/tune")
    with cluster.relay(shown) as mailbox:
        tuner = tune.Tuner(
            # The trial's own process only waits: its workers hold the CPUs. Ray Tune accepts no trial of 0 CPUs.
            tune.with_resources(functools.partial(_trial, packed=packed, mailbox=mailbox), {"CPU": 0.001}),
            param_space={"trial": tune.grid_search(list(packed))},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once, reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=f"{folder.url}/work/tune",
                name="sweep",
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
                callbacks=[JsonLoggerCallback()],  # from which Ray Tune reads what a trial returned
            ),
        )
        try:
            grid = tuner.fit()
        except ray.exceptions.RayError as error:
            raise StageFailed(f"tune {recipe.name}: Ray stopped: {error}; then `manta resume {folder.url}`") from error
    reasons = {}
    for result in grid:
        name = result.config["trial"]
        if result.error is not None:
            reasons[name] = str(result.error).strip().splitlines()[-1]
        elif result.metrics and result.metrics.get("reason"):
            reasons[name] = result.metrics["reason"]
    return reasons


def _packed(trial: Trial, metric: str) -> dict[str, Any]:
    return {"overrides": trial.overrides, "metric": metric, "recipe": recipes.resolved(trial.recipe)}


def _trial(config: dict[str, str], packed: dict[str, dict[str, Any]], mailbox: Any) -> dict[str, str]:
    """What Ray Tune calls, in a process of its own: one fine-tuning run. Returns why it failed, or an empty reason."""
    name = config["trial"]
    mine = packed[name]
    recipe = recipes.validate(mine["recipe"], kind="finetune")
    assert isinstance(recipe, FinetuneRecipe)
    progress = board.TrialProgress(name, mailbox)
    shown = ", ".join(f"{path} {format_figure(value)}" for path, value in mine["overrides"].items())
    try:
        _await_lock(Folder(f"{recipe.output}/{recipe.name}"))
        outcome = stage.run(recipe, progress)
    except MantaError as error:
        progress.tell(f"trial {name} failed ({shown}): {error}")
        return {"reason": str(error)}
    figure = outcome.artifact.metrics.get(mine["metric"])
    progress.finished(figure)
    said = f"{mine['metric'].replace('_', ' ')} {format_figure(figure)}"
    progress.tell(f"trial {name} done in {outcome.seconds:.0f} s ({shown}): {said}")
    return {"reason": ""}


def _await_lock(folder: Folder) -> None:
    """Give the trial of a sweep that was killed a moment ago time to die: its process may still hold the folder."""
    if folder.local_path is None or not folder.exists(".lock"):
        return
    give_up = time.monotonic() + LOCK_SECONDS
    with (folder.local_path / ".lock").open("r+") as handle:
        while time.monotonic() < give_up:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return  # closing the file lets go of it
            except BlockingIOError:
                time.sleep(0.2)


# --- what is left ----------------------------------------------------------------------------------------------------


def _result(trial: Trial, recipe: TuneRecipe, reasons: dict[str, str]) -> dict[str, Any]:
    """One line of the table of trials: without times, so that the same sweep writes the same line."""
    made = _finished(trial)
    line: dict[str, Any] = {
        "trial": trial.name,
        "overrides": trial.overrides,
        "status": "failed",
        "metric": None,
        "fingerprint": None,
    }
    if made is None:
        return {**line, "reason": reasons.get(trial.name, "the trial's process ended without a word")}
    figure = made.metrics.get(recipe.search.metric)
    if figure is None or not math.isfinite(figure):
        return {
            **line,
            "fingerprint": made.fingerprint,
            "reason": f"{recipe.search.metric} is {figure}: the training diverged",
        }
    return {**line, "status": "complete", "metric": figure, "fingerprint": made.fingerprint, "reason": ""}


def _take(folder: Folder, best: dict[str, Any]) -> None:
    """Copy what the best trial made; on a local disk by hard links, which take no room."""
    winner = folder / f"trials/{best['trial']}"
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


def _tidy(folder: Folder, planned: Sequence[Trial]) -> None:
    """Drop what only a trial that is still running needs."""
    folder.clear("work")
    for trial in planned:
        place = folder / f"trials/{trial.name}"
        if artifacts.is_complete(place):
            for name in ("checkpoints", "work"):
                place.clear(name)
