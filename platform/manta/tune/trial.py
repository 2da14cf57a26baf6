"""One run of a sweep: an ordinary stage in a folder of its own, what follows it, and the figures that it is judged by."""

from __future__ import annotations

import errno
import fcntl
import time
from typing import Any, NamedTuple

from manta import artifact as artifacts
from manta import recipe as recipes
from manta import stage
from manta.errors import MantaError
from manta.progress import Progress
from manta.schema import CompressRecipe, EvaluateRecipe, Recipe
from manta.storage import Folder
from manta.train.marks import Halted, Marks
from manta.tune import figures as known
from manta.tune import latency
from manta.tune.space import Made

LOCK_SECONDS = 60.0


class Outcome(NamedTuple):
    """How a run ended: "complete", "halted" at a mark with a checkpoint, "failed" for good, or "broken" by something that
    is not its own fault, such as a full disk."""

    status: str
    reason: str = ""


def run(made: Made, progress: Progress, marks: Marks | None = None, measure: bool = False) -> Outcome:
    """Carry the run on from wherever it stands: up to its end, or to the mark where it is told to halt.

    `measure`: everything but the latency is there; measure that.
    """
    try:
        if measure:
            latency.measure(made, progress)
            return Outcome("complete")
        for recipe in chain(made):
            folder = Folder(f"{recipe.output}/{recipe.name}")
            if recipe.name != made.name and artifacts.is_complete(folder) and recipe is made.recipe:
                continue  # another run's training, which several may use at once
            _await_lock(folder)
            stage.run(recipe, progress, marks=marks if recipe is made.recipe else None)
    except (Halted, KeyboardInterrupt) as halt:
        return Outcome("halted", str(halt))
    except MantaError as error:
        full = isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
        return Outcome("broken" if full else "failed", str(error))
    return Outcome("complete")


def chain(made: Made) -> list[Recipe]:
    """The run and what follows it, as recipes that lie side by side: NAME, NAME.compress, NAME.evaluate."""
    found: list[Recipe] = [made.recipe]
    for kind in ("compress", "evaluate"):
        if getattr(made.after, kind) is not None:
            found.append(_following(made, kind, f"{made.recipe.output}/{found[-1].name}"))
    return found


def _following(made: Made, kind: str, source: str) -> Recipe:
    raw = getattr(made.after, kind).model_dump(mode="json")
    raw |= {"kind": kind, "name": f"{made.name}.{kind}", "output": made.recipe.output, "seed": made.recipe.seed}
    model = {"source": source}
    if kind == "evaluate":
        model["base"] = raw.pop("base")
        if made.recipe.kind != "compress":
            # An objective or a constraint judges it; of compressions the files themselves may be wrong.
            raw["gate"] = {"engine_gap": None}
    found = recipes.validate(raw | {"model": model}, origin=f"after.{kind}", kind=kind)
    assert isinstance(found, CompressRecipe | EvaluateRecipe)
    return found


# --- what a run has left ---------------------------------------------------------------------------------------------


def is_made(made: Made) -> bool:
    """Whether all stages of a run are complete: but for its latency there is nothing left to do."""
    return all(artifacts.is_complete(Folder(f"{recipe.output}/{recipe.name}")) for recipe in chain(made))


def figures(made: Made) -> dict[str, float] | None:
    """The figures of a run and of what follows it, by the names that objectives have; None while it is not complete."""
    if not is_made(made):
        return None
    found = {} if made.after.latency is None else latency.measured(made)
    if found is None:
        return None
    for recipe in chain(made):
        folder = Folder(f"{recipe.output}/{recipe.name}")
        metrics = artifacts.open_artifact(recipe.name, recipe.output).metrics
        mine = {name: float(value) for name, value in metrics.items() if _is_number(value)}
        mine |= _of_training(metrics, recipe) if "seconds" in metrics else {}
        if folder.exists("model"):
            mine["model_bytes"] = float((folder / "model").size())
        prefix = "" if recipe is made.recipe else f"{recipe.kind}."
        found |= {f"{prefix}{name}": value for name, value in mine.items()}
    return found


def at_marks(made: Made) -> dict[int, dict[str, float]]:
    """The figures of a run's validations so far, by step."""
    from manta.train import metrics

    folder = Folder(f"{made.recipe.output}/{made.recipe.name}")
    lines = (line for line in metrics.read(folder) if line["kind"] == "validation")
    return {line["step"]: known.at_mark(line) for line in lines}


def _of_training(metrics: dict[str, Any], recipe: Recipe) -> dict[str, float]:
    workers = getattr(recipe.resources, "workers", 1)  # type: ignore[attr-defined]
    return {"train_seconds": float(metrics["seconds"]), "worker_seconds": float(metrics["seconds"]) * workers}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _await_lock(folder: Folder) -> None:
    """Give the run of a sweep that was killed a moment ago time to die: its process may still hold the folder."""
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
