"""Ray Tune as a sweep uses it: it finds room for slots, each a process that takes one run after another, and replaces those that die."""

from __future__ import annotations

import functools
import os
import threading
import time
from typing import Any

from manta import recipe as recipes
from manta.errors import StageFailed
from manta.progress import Progress
from manta.schema import After
from manta.storage import Folder
from manta.train import run as training
from manta.tune import board, trial
from manta.tune.keeper import Keeper, Plan

# Ray Tune's own tables, files and signal handlers are not wanted: stdout and Ctrl-C belong to the command line.
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nothing is read from it: what a sweep is stands in its trials' folders
    "TUNE_RESULT_BUFFER_LENGTH": "0",
}
LOOK_SECONDS = 0.1  # between questions whether a run is wanted


def run(plan: Plan, at_once: int, mailbox: Any, progress: Progress) -> dict[str, Any]:
    """Run the trials that are wanted until there are none. Returns the keeper's table. Raises StageFailed; Ctrl-C lets
    the runs save, then raises KeyboardInterrupt."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import ray
    from ray import tune
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    keeper = ray.remote(num_cpus=0, scheduling_strategy=here, max_concurrency=1000)(Keeper).remote(plan, mailbox)
    folder = Folder(plan.folder)
    folder.clear("work/tune")
    tuner = tune.Tuner(
        # A slot's own process only waits: the workers of its runs hold the CPUs. Ray Tune accepts nothing of 0 CPUs.
        tune.with_resources(functools.partial(_slot, keeper=keeper, mailbox=mailbox), {"CPU": 0.001}),
        param_space={"slot": tune.grid_search([*range(at_once)])},
        tune_config=tune.TuneConfig(max_concurrent_trials=at_once),
        run_config=tune.RunConfig(
            storage_path=f"{folder.url}/work/tune",
            name="sweep",
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=-1),  # the keeper counts how often a run's process dies
        ),
    )
    try:
        _fit(tuner, keeper, mailbox, progress)
        return dict(ray.get(keeper.table.remote()))
    except ray.exceptions.RayError as error:
        raise StageFailed(f"Ray stopped: {error}; then `manta resume {folder.url}`") from error
    finally:
        if ray.is_initialized():
            ray.kill(keeper)


def _fit(tuner: Any, keeper: Any, mailbox: Any, progress: Progress) -> None:
    """Follow Ray Tune to its end, in a thread of its own as training is. Ctrl-C lets the runs save where they are."""
    finished = threading.Event()
    failed: list[Exception] = []

    def fit() -> None:
        try:
            tuner.fit()
        except Exception as error:  # noqa: BLE001 - it is raised again in the main thread
            failed.append(error)
        finally:
            finished.set()

    threading.Thread(target=fit, name="manta-tune", daemon=True).start()
    try:
        training.wait(finished)
    except KeyboardInterrupt:
        progress.note("interrupted: the runs take the step at hand and save (Ctrl-C again to drop it)")
        keeper.stop.remote()
        mailbox.stop.remote()
        training.wait(finished, seconds=training.STOP_SECONDS)
        raise
    if failed:
        raise failed[0]


def _slot(config: dict[str, Any], keeper: Any, mailbox: Any) -> dict[str, Any]:
    """What Ray Tune calls, in a process of its own: one run after another, as the keeper wants them, until it wants none.

    A process for each run would have to start anew each time: Ray Tune keeps one idle process at most, and starts many
    that it then does not need.
    """
    import ray

    ray.get(keeper.began.remote(config["slot"]))
    while (task := ray.get(keeper.next.remote(config["slot"]))) != "finished":
        if task is None:
            time.sleep(LOOK_SECONDS)
        else:
            ray.get(keeper.ended.remote(task["run"], *_run(task, keeper, mailbox)))
    return {"slot": config["slot"]}


def _run(task: dict[str, Any], keeper: Any, mailbox: Any) -> trial.Outcome:
    """A run from where it stands to its end or to a mark."""
    from manta.train.marks import Marks
    from manta.tune.space import Made, TrialRecipe

    recipe = recipes.validate(task["recipe"])
    assert isinstance(recipe, TrialRecipe)
    progress = board.TrialProgress(task["run"], mailbox, task["overrides"])
    shared = f"{Folder(recipe.output).url.rpartition('/')[0]}/work/rows"
    trains = recipe.kind != "compress"
    marks = Marks(tuple(task["marks"]), keeper, task["run"], shared) if trains else None
    if task["measure"]:
        progress.begin(task["run"], kind="latency")
    outcome = trial.run(
        Made(recipe, After.model_validate(task["after"]), task["run"]), progress, marks, task["measure"]
    )
    progress.left(outcome.status)
    return outcome
