"""`manta drill RUN`: trains the run again while killing its workers, and proves that the loss curve is the same one."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

from manta import artifact, stage
from manta import recipe as recipes
from manta.errors import InputError, StageFailed
from manta.progress import Progress
from manta.schema import FinetuneRecipe, PretrainRecipe
from manta.storage import Folder

SCRATCH = "work/drill"  # below the run's folder: a working file, not part of its result
WORKER_TITLE = "ray::RayTrainWorker"  # how Ray names the processes of a training group


def drill(run: str, kills: int, progress: Progress) -> dict[str, Any]:
    """Rerun the finished training run in `run` while kill -9ing one worker at `kills` random steps; compare the curves.

    Returns {run, steps, kills (the steps at which a worker was killed), compared, identical, largest_difference,
    seconds}. Raises InputError if the run is no finished training run, StageFailed if a curve or a kill went wrong.
    """
    finished = artifact.open_artifact(run)
    recipe = recipes.validate(finished.recipe, origin=finished.folder.url)
    if not isinstance(recipe, PretrainRecipe | FinetuneRecipe):
        raise InputError(f"{run} is a {finished.kind}: a drill wants a run of pretrain or finetune")
    expected = curve(finished.folder)
    steps = max(step for _, step in expected)
    most = steps * 4 // 5
    if not 1 <= kills <= most:
        raise InputError(f"--kills = {kills}: choose between 1 and {most}, since the run has {steps} steps")
    # Not in the last fifth: there the run could be over before the kill arrives.
    at = sorted(random.Random(f"{finished.fingerprint} {kills}").sample(range(1, most + 1), kills))
    finished.folder.clear(SCRATCH)
    killer = _Killer(finished.folder / SCRATCH / finished.name, at, progress)
    started = time.monotonic()
    try:
        with killer:
            stage.run(_again(recipe, finished, kills), progress)
        found = curve(finished.folder / SCRATCH / finished.name)
    finally:
        finished.folder.clear(SCRATCH)
    if len(killer.killed) < kills:
        raise StageFailed(
            f"only {len(killer.killed)} of {kills} kills took place before the run ended: choose a longer run or fewer kills"
        )
    differences = [abs(found.get(key, float("inf")) - loss) for key, loss in expected.items()]
    result = {
        "run": finished.folder.url,
        "steps": steps,
        "kills": killer.killed,
        "compared": len(expected),
        "identical": found == expected,
        "largest_difference": max(differences),
        "seconds": round(time.monotonic() - started, 1),
    }
    if not result["identical"]:
        raise StageFailed(f"the disturbed run's loss curve differs: {text(result)}")
    return result


def text(result: dict[str, Any]) -> str:
    """The result for a person."""
    where = ", ".join(str(step) for step in result["kills"])
    verdict = (
        "identical to the bit" if result["identical"] else f"DIFFERENT by up to {result['largest_difference']:.3g}"
    )
    return (
        f"a worker was killed (kill -9) after step {where} of {result['steps']}; each time the run recovered by itself\n"
        f"loss curve: {result['compared']} figures compared, {verdict} ({result['seconds']} s)"
    )


def curve(folder: Folder) -> dict[tuple[str, int], float]:
    """(train or validation, step) -> loss, from metrics.jsonl. Raises InputError if a step stands there twice."""
    from manta.train import metrics

    lines = [line for line in metrics.read(folder) if "loss" in line]
    losses = {(line["kind"], line["step"]): line["loss"] for line in lines}
    if not lines or len(losses) < len(lines):
        raise InputError(
            f"{folder.url}/{metrics.FILE} is empty or names a step twice: it is not the record of a training run"
        )
    return losses


def _again(
    recipe: PretrainRecipe | FinetuneRecipe, finished: artifact.Artifact, kills: int
) -> PretrainRecipe | FinetuneRecipe:
    """The same run at another place: inputs named by where they are, restarts allowed for every kill."""
    raw = recipes.resolved(recipe)
    for role, entry in finished.manifest["inputs"].items():
        if "path" in entry:
            recipes.set_path(raw, role, entry["path"])
    raw["output"] = (finished.folder / SCRATCH).url
    raw["resources"]["max_restarts"] = max(recipe.resources.max_restarts, kills)
    again = recipes.validate(raw, origin="drill")
    assert isinstance(again, PretrainRecipe | FinetuneRecipe)
    return again


class _Killer:
    """A thread that ends one of this process's own training workers each time the run has passed a step of `at`."""

    def __init__(self, folder: Folder, at: list[int], progress: Progress):
        self.folder, self.at, self.progress = folder, at, progress
        self.killed: list[int] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="manta-drill", daemon=True)

    def __enter__(self) -> _Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        from manta.train import metrics

        chooser = random.Random(len(self.at))
        for step in self.at:
            while not self._over.wait(0.05):
                lines = metrics.read(self.folder)
                workers = _workers() if lines and lines[-1]["step"] >= step else []
                if workers:
                    chooser.choice(workers).kill()
                    self.killed.append(lines[-1]["step"])
                    self.progress.note(f"drill: killed a worker after step {lines[-1]['step']}")
                    _wait_until_gone(workers, self._over)
                    break


def _workers() -> list[Any]:
    """The training workers that this process's own Ray runs."""
    import psutil

    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any(part.startswith(WORKER_TITLE) for part in process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return sorted(found, key=lambda process: process.pid)


def _wait_until_gone(processes: list[Any], over: threading.Event) -> None:
    """Wait for the whole group to be replaced, so that the next kill meets the new one."""
    while any(process.is_running() and process.status() != "zombie" for process in processes) and not over.wait(0.1):
        pass
