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
    from manta.compress import calibration, lineage
    from manta.models.load import model_config, model_url

    source = inputs["model.source"]
    config = {} if source.kind == "package" else model_config(model_url(source))  # packages are unpacked later
    if "quantization_config" in config:
        raise InputError(
            f"model.source = {source.ref!r} is quantised already ({config['quantization_config'].get('quant_method')}): "
            "name the model it was made from"
        )
    if config:
        parts.check(recipe.compress.parts, config, Folder(model_url(source)))
    if (wanted := recipe.compress.rows) is None:
        return
    chosen = inputs.get("compress.calibration.shards")
    shards = chosen.path if chosen is not None else lineage.find(source).shards
    if shards is not None:
        calibration.check(wanted, shards, config.get("max_position_embeddings"))
    if config and chosen is not None:
        check_vocabulary(Folder(chosen.path), Folder(model_url(source)))


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
    rows = recipe.compress.rows
    seen = "" if rows is None else f" (calibrated on {rows.samples} x {rows.seq_len} tokens)"
    if rows is not None and rows.samples == "auto":
        seen = f" (calibrated on as many rows of {rows.seq_len} tokens as it takes)"
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
        text = _place(recipe, source, shards, folder, base)
        rows = _rows(recipe, text, base)
        at = base
        figures: dict[str, Any] = {}
        for number, (name, settings) in enumerate(wanted, start=1):
            place = MODEL if number == len(wanted) else f"work/{name}"
            figures |= _part(name, settings, at, folder, place, _seen(name, text, rows, base, at), mailbox)
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
        "calibration_tokens": 0 if rows is None else int((rows >= 0).sum()),
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }


def _place(recipe: CompressRecipe, source: Resolved, shards: Resolved | None, folder: Folder, base: Path) -> str | None:
    """Where the calibration rows are: the shards that the recipe names, or what the model was trained on."""
    from manta.compress import lineage

    if recipe.compress.rows is None:
        return None
    if shards is None:
        return lineage.rows(lineage.find(source), base, folder)
    check_vocabulary(Folder(shards.path), Folder(base))
    return shards.path


def _rows(recipe: CompressRecipe, place: str | None, base: Path) -> np.ndarray | None:
    from manta.compress import calibration

    wanted = recipe.compress.rows
    if wanted is None or place is None:
        return None
    calibration.check(wanted, place, None)
    rows = calibration.rows(wanted, place, recipe.seed)
    return rows[: calibration.enough(base, rows)] if wanted.samples == "auto" else rows


def _seen(name: str, text: str | None, rows: np.ndarray | None, base: Path, at: Path) -> np.ndarray | None:
    """What a part looks at: the calibration rows, in the ids of the model that it is given, or what it takes of the text."""
    from manta.data.respell import respelt

    if rows is None or text is None:
        return None
    part, place = parts.PARTS[name], Folder(text)
    if part.look is not None:
        return part.look(place)
    # Rows of a fine-tuning have no tokenizer beside them: it is that of the model which they taught.
    return respelt(rows, place if place.exists("tokenizer/tokenizer.json") else Folder(base), Folder(at))


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
