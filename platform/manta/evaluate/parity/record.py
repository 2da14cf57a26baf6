"""What a finished run has recorded of the model that training saw: its files' hash, its rows, its base and its adapter."""

from __future__ import annotations

from typing import Any, NamedTuple

from manta import artifact as artifacts
from manta import recipe as recipes
from manta.artifact import Artifact, Resolved
from manta.data.shards import load_index, read_rows
from manta.errors import InputError
from manta.evaluate.parity.reading import first_difference, show
from manta.evaluate.parity.subject import Subject
from manta.schema import FinetuneRecipe
from manta.sections.base import Input
from manta.storage import Folder
from manta.tasks import ANSWERING, TASKS, examples, labels

ROWS = 16  # validation rows of a run that are tokenised once more
AT = "work/rows"  # where a fine-tuning run keeps them


class Check(NamedTuple):
    """`ok` is None where it could not be told; `said` says why, or what was found."""

    name: str
    ok: bool | None
    said: str


def opened(source: Resolved) -> Artifact | None:
    """The run that left a model; None for directories and packages."""
    return None if source.kind in ("directory", "package") else artifacts.open_artifact(source.path)


def unchanged(made: Artifact) -> Check:
    """Are the files those that the run left? Whoever edits a chat template or weights afterwards changes their hash."""
    ok = artifacts.content_hash(made.folder) == made.manifest["content"]
    said = "the files are those that the run left" if ok else f"{made.folder.url} was changed after its run ended"
    return Check("files", ok, said)


def stored_rows(made: Artifact, subject: Subject) -> Check:
    """Does the model's tokenizer make the run's examples into the very rows that it trained and validated with?"""
    place = made.folder / AT
    recipe = recipes.validate(made.recipe) if made.kind == "finetune" else None
    if not isinstance(recipe, FinetuneRecipe) or not place.exists("shards.json"):
        return Check("rows", None, f"the run keeps no rows of a task ({AT})")
    inputs = {role: Resolved(role, **entry) for role, entry in made.manifest["inputs"].items() if "path" in entry}
    for role, item in inputs.items():
        if role.startswith("data.") and not _same(item):
            return Check("rows", None, f"{role} = {item.ref!r} is no longer what the run read")
    shard = load_index(place).splits["validation"][0]
    stored = read_rows(place, shard.path, "input_ids")[:ROWS].tolist()
    some = examples.load(inputs, recipe.data, recipe.task).validation[: len(stored)]
    tokenizer = labels.tokenizer(subject.folder)
    for number, (row, example) in enumerate(zip(stored, some, strict=False)):
        ids = _encode(example, tokenizer, recipe, subject)
        if (at := first_difference(row[: len(ids)], ids)) is not None:
            found = show(row, ids, at, tokenizer)
            return Check(
                "rows",
                False,
                f"example {number + 1} of the run's validation is read otherwise than it was trained: after {found['before']!r} "
                f"training read {found['trainer']['text']!r}, this model's tokenizer and template give {found['other']['text']!r}",
            )
    return Check("rows", True, f"{len(stored)} of the run's validation rows come out as they were trained")


def _encode(example: dict[str, Any], tokenizer: Any, recipe: FinetuneRecipe, subject: Subject) -> list[int]:
    task = TASKS[recipe.task.name]
    if recipe.task.name in ANSWERING:
        return list(task.encode(example, tokenizer, recipe.task).input_ids)
    return list(task.encode(example, tokenizer, recipe.task, labels.of_config(subject.config)).columns["input_ids"])


def before_merging(made: Artifact) -> tuple[Resolved, Folder] | Check | None:
    """(the model that the run started from, its adapter); None where it left no adapter; a Check if the base is gone."""
    adapter = made.folder / "adapter"
    if not adapter.exists("adapter_config.json") or "model.source" not in made.manifest["inputs"]:
        return None
    base = Resolved("model.source", **made.manifest["inputs"]["model.source"])
    if not _same(base):
        return Check("merge", None, f"{base.ref!r}, which the adapter stands beside, is no longer what the run read")
    return base, adapter


def _same(item: Resolved) -> bool:
    """Whether an input still holds what the run recorded of it."""
    place = Folder(item.path)
    if item.kind == "package":
        try:
            return artifacts.resolve(item.role, item.ref, Input(("package",)), ".").content == item.content
        except InputError:
            return False
    if item.kind == "file":
        return place.is_file() and place.file_sha256() == item.content
    if item.kind == "directory":
        return place.exists("config.json") and artifacts.content_hash(place) == item.content
    manifest = artifacts.read_manifest(place)
    return manifest is not None and manifest["content"] == item.content
