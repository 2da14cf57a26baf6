"""The compress stage: one model in, a smaller one of the same interface out, made in a process of its own."""

from __future__ import annotations

import contextlib
import json
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta import cluster, isolate
from manta.artifact import Draft, Resolved
from manta.compress import parts
from manta.data.sample import check_vocabulary
from manta.errors import InputError
from manta.progress import Progress
from manta.schema import CompressRecipe
from manta.storage import Folder

if TYPE_CHECKING:
    import numpy as np

MODEL = "model"
FIGURES = "work/figures.json"  # written once model/ is whole: what a run that broke off later need not do again


def check(recipe: CompressRecipe, inputs: dict[str, Resolved]) -> None:
    """Raise InputError for a model that is compressed already, and for calibration rows that do not fit it."""
    from manta.compress import calibration
    from manta.models.load import model_config, model_url

    source = inputs["model.source"]
    config = {} if source.kind == "package" else model_config(model_url(source))  # packages are unpacked later
    if "quantization_config" in config:
        raise InputError(
            f"model.source = {source.ref!r} is quantised already ({config['quantization_config'].get('quant_method')}): "
            "name the model it was made from"
        )
    if recipe.compress.calibration is not None:
        shards = inputs["compress.calibration.shards"]
        calibration.check(recipe.compress.calibration, shards.path, config.get("max_position_embeddings"))
        if config:
            check_vocabulary(Folder(shards.path), Folder(model_url(source)))


def run(recipe: CompressRecipe, draft: Draft, progress: Progress) -> dict[str, Any]:
    """Write model/ (a compressed-tensors Hugging Face directory) and return its figures: sizes in bytes, seconds."""
    if draft.resumed and draft.folder.exists(FIGURES):
        return dict(json.loads(draft.folder.read_text(FIGURES)))
    for name in {name.split("/")[0] for name in draft.folder.files() if name.startswith((f".{MODEL}.", ".work_"))}:
        draft.folder.clear(name)  # what an attempt that was killed left half-written
    cluster.connect(recipe.resources.address, recipe.resources.cpus)
    cluster.check_fits(1, recipe.resources.cpus, 0)
    progress.note(describe(recipe))
    source = draft.inputs["model.source"]
    shards = draft.inputs.get("compress.calibration.shards")
    with cluster.relay(progress) as mailbox:
        call = isolate.Call(_compress, (recipe, source, shards, draft.folder, mailbox), cpus=recipe.resources.cpus)
        [figures] = isolate.run([call], f"compress {recipe.name}")
    draft.folder.write_text(FIGURES, json.dumps(figures, indent=2) + "\n")
    for name in recipe.compress.parts:
        draft.folder.clear(f"work/{name}")  # the models between the first and the last
    return dict(figures)


def describe(recipe: CompressRecipe) -> str:
    """What is about to be done, in a sentence."""
    rows = recipe.compress.calibration
    seen = f" (calibrated on {rows.samples} x {rows.seq_len} tokens)" if rows is not None else ""
    return parts.describe(recipe.compress.parts) + seen


def _compress(
    recipe: CompressRecipe, source: Resolved, shards: Resolved | None, folder: Folder, mailbox: Any
) -> dict[str, Any]:
    """Runs in its own process: one part after the other, the last one's model is the result."""
    from manta.models.formulas import num_parameters
    from manta.models.load import model_config, model_folder, weight_bytes

    started = time.monotonic()
    wanted = list(recipe.compress.parts.items())
    with model_folder(source) as base, contextlib.ExitStack() as opened:
        rows = _rows(recipe, shards, base)
        at = base
        figures: dict[str, Any] = {}
        for number, (name, settings) in enumerate(wanted, start=1):
            place = MODEL if number == len(wanted) else f"work/{name}"
            figures |= _part(name, settings, at, folder, place, rows, mailbox)
            at = opened.enter_context(folder.local(place))
        size, base_size = weight_bytes(at), weight_bytes(base)
        parameters = num_parameters(model_config(str(at)))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        **figures,
        "parameters": parameters,
        "size_bytes": size,
        "base_size_bytes": base_size,
        "size_ratio": round(size / base_size, 4),
        "calibration_tokens": 0 if rows is None else int(rows.size),
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }


def _rows(recipe: CompressRecipe, shards: Resolved | None, base: Path) -> np.ndarray | None:
    from manta.compress import calibration

    if recipe.compress.calibration is None or shards is None:
        return None
    check_vocabulary(Folder(shards.path), Folder(base))
    return calibration.rows(recipe.compress.calibration, shards.path, recipe.seed)


def _part(
    name: str, settings: Any, source: Path, folder: Folder, place: str, rows: np.ndarray | None, mailbox: Any
) -> dict[str, Any]:
    """Apply a part, unless an attempt that broke off later has; its figures lie beside what it made."""
    done = f"work/{name}.json"
    if folder.exists(done):
        return dict(json.loads(folder.read_text(done)))

    def report(blocks: int, total: int) -> None:
        mailbox.put.remote({"update": {"doing": name, "done": blocks, "total": total, "unit": "blocks"}})

    with folder.staged(place) as target:
        read = rows if getattr(settings, "reads_rows", False) else None
        figures = parts.PARTS[name].apply(source, target, settings, read, report)
    folder.write_text(done, json.dumps(figures, indent=2) + "\n")
    return figures
