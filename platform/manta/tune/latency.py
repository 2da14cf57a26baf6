"""The latency of a trial's model: measured in a process of its own once the trial is made, kept beside it."""

from __future__ import annotations

import json

from manta import artifact as artifacts
from manta import cluster, isolate
from manta.errors import InputError
from manta.evaluate import latency
from manta.progress import Progress
from manta.storage import Folder
from manta.tune.space import Made

FILE = "figures.json"
LOADED_BYTES = 2 << 30  # an engine, beside the weights


def measured(made: Made) -> dict[str, float] | None:
    """{"latency.p50_ms": ...} of a run, see `manta.evaluate.latency`; None where it was not measured yet."""
    folder = _folder(made)
    if not folder.exists(FILE):
        return None
    return {f"latency.{name}": float(value) for name, value in json.loads(folder.read_text(FILE)).items()}


def measure(made: Made, progress: Progress) -> None:
    """Leave the figures of the model that a run made, the compressed one if it was compressed. Raises StageFailed, or
    InputError for a run without a model, or with one that has too few positions."""
    settings = made.after.latency
    assert settings is not None
    name = f"{made.name}.compress" if made.after.compress is not None else made.recipe.name
    model = artifacts.open_artifact(name, made.recipe.output).folder
    if not model.exists("model"):
        raise InputError(f"after.latency: {model.url} has an adapter and no model to ask: set trial.adapt.merge=true")
    cluster.connect(None, settings.cpus)
    cluster.check_fits(1, settings.cpus, 0)
    size = (model / "model").size()
    call = isolate.Call(
        latency.measure,
        (f"{model.url}/model", settings, made.recipe.seed),
        cpus=settings.cpus,
        memory=4 * size + LOADED_BYTES,
    )
    [found] = isolate.run([call], f"latency of {made.name}")
    _folder(made).write_text(FILE, json.dumps(found))
    progress.note(f"{made.name}: {', '.join(f'{key} {value:.4g}' for key, value in found.items())}")


def _folder(made: Made) -> Folder:
    return Folder(f"{made.recipe.output}/{made.name}.latency")
