"""`manta drill RUN`: trains the run again while killing or stopping its workers, and proves the same loss curve."""

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
LEAST_PATIENCE = 10.0  # seconds: a step may wait for a busy machine
WORKER_TITLE = "ray::RayTrainWorker"  # how Ray names the processes of a training group


def drill(run: str, kills: int, progress: Progress, hangs: int = 0) -> dict[str, Any]:
    """Rerun the finished training run in `run` while disturbing it at random steps; compare the curves.

    `kills` times a worker gets kill -9, `hangs` times one is stopped (SIGSTOP) for its watchdog's peers to notice.
    Returns {run, steps, kills and hangs (the steps after which it happened), stacks (of the last hang: names and first
    lines of what the ranks left), compared, identical, largest_difference, seconds}. Raises InputError if the run is no finished training run, StageFailed if a curve or a kill went wrong.
    """
    finished = artifact.open_artifact(run)
    recipe = recipes.validate(finished.recipe, origin=finished.folder.url)
    if not isinstance(recipe, PretrainRecipe | FinetuneRecipe):
        raise InputError(f"{run} is a {finished.kind}: a drill wants a run of pretrain or finetune")
    expected = curve(finished.folder)
    steps = max(step for _, step in expected)
    most, wanted = steps * 4 // 5, kills + hangs
    if min(kills, hangs) < 0 or not 1 <= wanted <= most:
        raise InputError(
            f"--kills = {kills}, --hang = {hangs}: choose between 1 and {most} together, since the run has {steps} steps"
        )
    chooser = random.Random(f"{finished.fingerprint} {kills} {hangs}")
    # Not in the last fifth: there the run could be over before the kill arrives.
    at = sorted(chooser.sample(range(1, most + 1), wanted))
    hung = set(chooser.sample(at, hangs))
    patience = _patience(finished.folder) if hangs else None
    finished.folder.clear(SCRATCH)
    again = finished.folder / SCRATCH / finished.name
    killer = _Killer(again, at, hung, progress)
    started = time.monotonic()
    try:
        with killer:
            stage.run(_again(recipe, finished, wanted, patience), progress)
        found = curve(again)
        stacks = _stacks(again)
    finally:
        finished.folder.clear(SCRATCH)
    if len(killer.killed) + len(killer.stopped) < wanted:
        raise StageFailed(
            f"only {len(killer.killed) + len(killer.stopped)} of {wanted} kills took place before the run ended: choose a longer run or fewer kills"
        )
    differences = [abs(found.get(key, float("inf")) - loss) for key, loss in expected.items()]
    result = {
        "run": finished.folder.url,
        "steps": steps,
        "kills": killer.killed,
        "hangs": killer.stopped,
        "stacks": stacks,
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
    told = [
        f"{what} after step {', '.join(str(step) for step in result[key])}"
        for key, what in {"kills": "killed (kill -9)", "hangs": "stopped (SIGSTOP)"}.items()
        if result[key]
    ]
    verdict = (
        "identical to the bit" if result["identical"] else f"DIFFERENT by up to {result['largest_difference']:.3g}"
    )
    return (
        f"a worker was {' and '.join(told)} of {result['steps']}; each time the run recovered by itself\n"
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


def _stacks(folder: Folder) -> list[tuple[str, str]]:
    from manta.train.watchdog import STACKS

    names = [name for name in folder.files() if name.startswith(f"{STACKS}/rank-")]
    return [(name.rpartition("/")[2], folder.read_text(name).splitlines()[0]) for name in names]


def _patience(folder: Folder) -> float:
    """Seconds after which a step of the drill counts as hung: ten times the slowest of the undisturbed run."""
    from manta.train import metrics

    lines = [line for line in metrics.read(folder) if line["kind"] == "train"]
    slowest = max(line["tokens"] / line["step"] / line["tokens_per_s"] for line in lines)
    return max(LEAST_PATIENCE, 10 * slowest)


def _again(
    recipe: PretrainRecipe | FinetuneRecipe, finished: artifact.Artifact, restarts: int, patience: float | None
) -> PretrainRecipe | FinetuneRecipe:
    """The same run at another place: inputs named by where they are, restarts allowed for every kill."""
    raw = recipes.resolved(recipe)
    for role, entry in finished.manifest["inputs"].items():
        if "path" in entry:
            recipes.set_path(raw, role, entry["path"])
    raw["output"] = (finished.folder / SCRATCH).url
    raw["resources"]["max_restarts"] = max(recipe.resources.max_restarts, restarts)
    if patience is not None:
        raw["watchdog"] |= {"step": patience, "checkpoint": 6 * patience, "validation": 6 * patience}
    again = recipes.validate(raw, origin="drill")
    assert isinstance(again, PretrainRecipe | FinetuneRecipe)
    return again


class _Killer:
    """A thread that disturbs one of this process's own training workers each time the run has passed a step of `at`.

    After the steps in `hung` it stops the worker, after the others it ends it.
    """

    def __init__(self, folder: Folder, at: list[int], hung: set[int], progress: Progress):
        self.folder, self.at, self.hung, self.progress = folder, at, hung, progress
        self.killed: list[int] = []
        self.stopped: list[int] = []
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
                trained = [line["step"] for line in metrics.read(self.folder) if line["kind"] == "train"]
                found = workers() if trained and trained[-1] >= step else []
                if found:
                    self._disturb(chooser.choice(found), step in self.hung, trained[-1])
                    _wait_until_gone(found, self._over)
                    break

    def _disturb(self, worker: Any, hang: bool, step: int) -> None:
        if hang:
            worker.suspend()
            self.stopped.append(step)
        else:
            worker.kill()
            self.killed.append(step)
        self.progress.note(f"drill: {'stopped' if hang else 'killed'} a worker after step {step}")


def workers() -> list[Any]:
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
