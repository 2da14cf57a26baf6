"""Labelled examples: read from a prepared artifact, or from one file or two, checked, split; every bad line is named."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from manta.artifact import Resolved
from manta.errors import InputError
from manta.sections.generate import GenerateData
from manta.sections.outcome import EvaluateData
from manta.sections.tasks import Task
from manta.sections.train import FinetuneData
from manta.storage import Folder
from manta.tasks import TASKS, reading
from manta.tasks.examples import doubts
from manta.tasks.examples.doubts import Numbered
from manta.tasks.examples.splitting import choose, validating
from manta.tasks.fields import ASKED, EXCHANGE, Field
from manta.tasks.reading.columns import refuse_columns
from manta.tasks.reading.found import Complaint, Unreadable
from manta.tasks.reading.record import example

__all__ = ["SPLITS", "Loaded", "check", "choose", "fields_of", "load", "read"]

SPLITS = ("train", "validation")
SHOWN = 8  # bad lines named in one message

Data = FinetuneData | EvaluateData | GenerateData
Inputs = Mapping[str, Resolved]


class Loaded(NamedTuple):
    """Both splits, each in the order it is stored, and sentences about what is doubtful in them."""

    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    notes: tuple[str, ...]
    files: tuple[Numbered, ...] = ()  # that they were read from

    def where(self, example: Mapping[str, Any]) -> str:
        """The file and the line of an example, one of these very objects."""
        return next(
            f"{file.url} {file.word} {number}"
            for file in self.files
            for number, each in zip(file.numbers, file.examples, strict=True)
            if each is example
        )


def load(inputs: Inputs, data: Data, task: Task, unanswered: bool = False) -> Loaded:
    """The examples of both splits. Raises InputError that names the bad lines. Those of a task that is answered may be
    `unanswered`.

    "data.examples" of `inputs` is a prepared artifact, which holds both splits, or one file; with "data.validation" that
    second file validates, and without it `data.validation_fraction` of the first: see `splitting.validating`. Each
    example has the fields that the task's FIELDS name, whatever columns they came from.
    """
    fields = asked_of(task) if unanswered else fields_of(task)
    return _loaded(list(_files(inputs, data, task, fields)), data, fields)


def read(inputs: Inputs, split: str, data: Data, task: Task) -> list[dict[str, Any]]:
    """The examples of `split` ("train" or "validation") alone: as `load`, but of two files only one is read."""
    if len(places := _places(inputs, (split,))) == 1:
        return list(getattr(load(inputs, data, task), split))
    return _numbered(*places[SPLITS.index(split)], data, task, fields_of(task)).examples


def check(inputs: Inputs, data: Data, task: Task) -> Loaded:
    """The examples, if training and validating with them makes sense. Raises InputError where it does not.

    Both splits must hold something, and no question of one may stand in the other.
    """
    fields = fields_of(task)
    files = list(_files(inputs, data, task, fields))
    loaded = _loaded(files, data, fields)
    if not (loaded.train and loaded.validation):
        raise InputError(
            f"data.examples: {files[0].url} holds {len(files[0].examples)} examples, and data.validation_fraction = "
            f"{data.validation_fraction} leaves {len(loaded.train)} to train on and {len(loaded.validation)} to validate with: "
            "both must be above 0"
        )
    if len(files) == len(SPLITS):
        doubts.refuse_leak(*files)
    return loaded


def fields_of(task: Task) -> tuple[Field, ...]:
    """The task's FIELDS; of "label" and "labels" the one that task.several asks for, answers as task.null_threshold says."""
    fields: tuple[Field, ...] = TASKS[task.name].FIELDS
    if task.name == "answering" and task.null_threshold is None:
        return tuple(Field(f.name, "some_answers") if f.kind == "answers" else f for f in fields)
    if task.name != "classification":
        return fields
    other = "label" if task.several else "labels"
    return tuple(Field(f.name, f.kind) if f.kind in ("label", "labels") else f for f in fields if f.kind != other)


def asked_of(task: Task) -> tuple[Field, ...]:
    """The same of a task whose answers a model writes, for examples that may have none."""
    if any(field.kind == "messages" for field in fields_of(task)):
        return tuple(Field(f.name, "turns") if f.kind == "messages" else f for f in fields_of(task))
    return ASKED


# --- files -----------------------------------------------------------------------------------------------------------


def _places(inputs: Inputs, needed: Sequence[str] = SPLITS) -> list[tuple[str, Folder]]:
    """(role, file) of the one file, or of that of each split. Raises InputError for what does not go together.

    Of an artifact, the splits that are `needed` must be there.
    """
    place, other = Folder(inputs["data.examples"].path), inputs.get("data.validation")
    if place.is_file():
        found = [("data.examples", place)]
        return [*found, ("data.validation", Folder(other.path))] if other else found
    if other:
        raise InputError(
            f"data.validation = {other.ref!r}: {place.url} holds validation examples of its own: set data.validation=null"
        )
    names = {split: f"examples/{split}.parquet" for split in SPLITS}
    for split in needed:
        if not place.exists(name := names[split]):
            raise InputError(
                f"data.examples: {place.url} has no {name}: prepare it with data.examples=docstring_summary, "
                "or name a file of your own"
            )
    return [("data.examples", place / name) for name in names.values()]


def _files(inputs: Inputs, data: Data, task: Task, fields: Sequence[Field]) -> Iterator[Numbered]:
    for role, folder in _places(inputs):
        yield _numbered(role, folder, data, task, fields)


def _loaded(files: Sequence[Numbered], data: Data, fields: Sequence[Field]) -> Loaded:
    notes = tuple(note for file in files for note in doubts.notes(file, fields))
    if len(files) == len(SPLITS):
        return Loaded(files[0].examples, files[1].examples, notes, tuple(files))
    sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = [], []
    for made, validates in zip(files[0].examples, validating(files[0].examples, data.validation_fraction), strict=True):
        sides[validates].append(made)
    return Loaded(*sides, notes, tuple(files))


def _numbered(role: str, folder: Folder, data: Data, task: Task, fields: Sequence[Field]) -> Numbered:
    """The examples of a file. Raises InputError that names the bad records, all of them counted, the first shown."""
    columns = data.columns
    _check_columns(columns, fields, task)
    good: list[dict[str, Any]] = []
    numbers: list[int] = []
    bad: list[tuple[int, Complaint, Any]] = []
    try:
        file = reading.read(folder, fields, columns)
        for number, raw in file.records:
            made = example(raw, fields, columns, cells=file.cells)
            if isinstance(made, Complaint):
                bad.append((number, made, raw))
            else:
                good.append(made)
                numbers.append(number)
        if bad and not good:
            refuse_columns(file, [raw for _, _, raw in bad], fields, columns, task.name)
    except Unreadable as error:
        raise InputError(f"{role}: {folder.url} {error}") from None
    if bad:
        more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        listed = "\n  ".join(f"{file.word} {number} {told}" for number, told, _ in bad[:SHOWN])
        raise InputError(
            f"{role}: {folder.url} has {len(bad)} bad of {len(bad) + len(good)}; mend or delete them:\n  {listed}{more}"
        )
    if not good:
        raise InputError(f"{role}: {folder.url} holds no examples")
    return Numbered(role, folder.url, file.word, good, numbers)


def _check_columns(columns: Mapping[str, str], fields: Sequence[Field], task: Task) -> None:
    known = [field.name for field in fields]
    if any(field.kind in ("messages", "turns") for field in fields):
        known += [field.name for field in EXCHANGE]
    if any(field.kind == "prompt" for field in fields):
        known.append(EXCHANGE[0].name)
    for name in columns:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise InputError(
                f"data.columns.{name} = {columns[name]!r}: {task.name} has the fields {', '.join(known)}{hint}"
            )
