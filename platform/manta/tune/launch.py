"""Ray Tune as a sweep uses it: it finds room for runs, starts them in processes of their own, and tells how they ended."""

from __future__ import annotations

import functools
import os
from typing import Any

from manta import recipe as recipes
from manta.errors import StageFailed
from manta.schema import After
from manta.storage import Folder
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
MANY = 10**6  # runs that Ray Tune may be given: the keeper says when there are no more
SAID = ("run", "status", "reason")


def run(plan: Plan, at_once: int, mailbox: Any) -> dict[str, Any]:
    """Run the trials that are wanted until there are none. Returns the keeper's table. Raises StageFailed."""
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
        # The trial's own process only waits: its workers hold the CPUs. Ray Tune accepts no trial of 0 CPUs.
        tune.with_resources(functools.partial(_trial, keeper=keeper, mailbox=mailbox), {"CPU": 0.001}),
        tune_config=tune.TuneConfig(
            search_alg=_searcher(keeper), num_samples=MANY, max_concurrent_trials=at_once, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            storage_path=f"{folder.url}/work/tune",
            name="sweep",
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    try:
        tuner.fit()
        return dict(ray.get(keeper.table.remote()))
    except ray.exceptions.RayError as error:
        raise StageFailed(f"Ray stopped: {error}; then `manta resume {folder.url}`") from error
    finally:
        if ray.is_initialized():
            ray.kill(keeper)


def _searcher(keeper: Any) -> Any:
    """Ray Tune's side of the keeper: asks it for the next run, and tells it how one ended."""
    import ray
    from ray.tune.search import Searcher

    class Wanted(Searcher):
        def __init__(self) -> None:
            super().__init__(metric="status", mode="max")  # Ray Tune wants a metric; nobody reads it
            self._runs: dict[str, str] = {}

        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            told = ray.get(keeper.next.remote())
            if told == "finished":
                return str(Searcher.FINISHED)
            if told is None:
                return None
            self._runs[trial_id] = told["run"]
            return {"task": told}

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            run = self._runs.pop(trial_id)
            if error or not result or "status" not in result:
                ray.get(keeper.ended.remote(run, "died", "Ray lost it: its node ran out of memory or left"))
            else:
                ray.get(keeper.ended.remote(run, result["status"], result["reason"]))

        def save(self, checkpoint_path: str) -> None: ...

        def restore(self, checkpoint_path: str) -> None: ...

    return Wanted()


def _trial(config: dict[str, Any], keeper: Any, mailbox: Any) -> dict[str, Any]:
    """What Ray Tune calls, in a process of its own: a run from where it stands to its end or to a mark."""
    from manta.train.marks import Marks
    from manta.tune.space import Made, TrialRecipe

    task = config["task"]
    recipe = recipes.validate(task["recipe"])
    assert isinstance(recipe, TrialRecipe)
    progress = board.TrialProgress(task["run"], mailbox, task["overrides"])
    marks = Marks(tuple(task["marks"]), keeper, task["run"]) if task["marks"] else None
    if task["measure"]:
        progress.begin(task["run"], kind="latency")
    outcome = trial.run(
        Made(recipe, After.model_validate(task["after"]), task["run"]), progress, marks, task["measure"]
    )
    progress.left(outcome.status)
    return dict(zip(SAID, (task["run"], *outcome), strict=True))
