"""What a model was trained on, found from what its artifact says of its own making: calibration rows by default."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from manta import artifact as artifacts
from manta import recipe as recipes
from manta.artifact import Resolved
from manta.errors import InputError
from manta.progress import Progress
from manta.schema import FinetuneRecipe
from manta.storage import Folder
from manta.tasks import ANSWERING

ROWS = "work/rows"  # where a fine-tuning leaves the rows that it made of its examples


class Origin(NamedTuple):
    """`shards`: a folder of rows; or `recipe` and `inputs`, of which `manta.tasks` makes rows again."""

    shards: str | None
    recipe: FinetuneRecipe | None = None
    inputs: dict[str, Resolved] | None = None


def find(source: Resolved) -> Origin:
    """What the model of `source` last learnt from. Raises InputError naming compress.calibration.shards where no artifact
    tells, or what it names is gone or is another by now."""
    if source.kind in ("directory", "package"):
        raise _unknown(source, f"a {source.kind} does not say what it was trained on")
    manifest = artifacts.read_manifest(Folder(source.path)) or {}
    if source.kind == "compress":
        return find(_input(source, manifest, "model.source"))
    made = manifest["recipe"]["trial"] if source.kind == "tune" else manifest["recipe"]
    prefix = "trial." if source.kind == "tune" else ""
    if made["kind"] == "compress":
        return find(_input(source, manifest, f"{prefix}model.source"))
    if f"{prefix}data.shards" in manifest["inputs"]:
        return Origin(_input(source, manifest, f"{prefix}data.shards").path)
    kept = Folder(source.path) / ROWS
    if kept.exists("shards.json"):
        return Origin(kept.url)
    if made["task"]["name"] not in ANSWERING:
        raise _unknown(source, f"its task is {made['task']['name']}")
    inputs = {
        role.removeprefix(prefix): _input(source, manifest, role)
        for role in manifest["inputs"]
        if role.startswith(f"{prefix}data.")
    }
    raw = made | {"name": "rows", "output": "runs"}
    recipe = recipes.validate(raw | {"mix": []}, origin=f"{source.path}/{artifacts.MANIFEST}")
    assert isinstance(recipe, FinetuneRecipe)
    return Origin(None, recipe, inputs)


def rows(origin: Origin, model: Path, scratch: Folder) -> str:
    """The URL of a folder of rows; those of examples are written below `scratch`, through the chat template of `model`."""
    if origin.shards is not None:
        return origin.shards
    from manta.tasks.encoding import rows as encoding

    assert origin.recipe is not None
    assert origin.inputs is not None
    folder = scratch / "work/calibration"
    if not folder.exists("shards.json"):
        encoding.write(origin.recipe, origin.inputs, model, folder, Progress(quiet=True))
    return folder.url


def _input(source: Resolved, manifest: dict[str, Any], role: str) -> Resolved:
    """One input of an artifact, as it was when the artifact was made."""
    entry = manifest.get("inputs", {}).get(role)
    if entry is None or "path" not in entry:
        raise _unknown(source, f"its manifest names no {role}")
    folder = Folder(entry["path"])
    if folder.is_file():
        same = folder.file_sha256() == entry["content"]
    else:
        found = artifacts.read_manifest(folder) if entry["kind"] not in ("directory", "package") else entry
        same = found is not None and found["content"] == entry["content"]
    if not same:
        raise _unknown(source, f"its {role}, {entry['path']}, is gone or was made again")
    return Resolved(role, entry["ref"], entry["kind"], entry["path"], entry["fingerprint"], entry["content"])


def _unknown(source: Resolved, why: str) -> InputError:
    return InputError(
        f"model.source = {source.ref!r}: {why}, so there are no calibration rows: set compress.calibration.shards to text "
        "prepared with its tokenizer"
    )
