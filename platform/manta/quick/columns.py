"""The task that a labelled file is meant for, told by its columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manta.errors import InputError
from manta.storage import Folder
from manta.tasks import TASKS, reading
from manta.tasks.fields import Field
from manta.tasks.reading.found import Complaint, Unreadable

# The columns that are needed, all of them, and what they are for; the first that fits counts.
RULES: tuple[tuple[frozenset[str], dict[str, Any]], ...] = (
    (frozenset({"tokens", "tags"}), {"name": "tagging"}),
    (frozenset({"question", "context", "answers"}), {"name": "answering"}),
    (frozenset({"text", "head", "tail", "label"}), {"name": "relations"}),
    (frozenset({"chosen", "rejected"}), {"name": "preference"}),
    (frozenset({"messages"}), {"name": "chat"}),
    (frozenset({"conversations"}), {"name": "chat"}),
    (frozenset({"instruction", "output"}), {"name": "chat"}),
    (frozenset({"text", "positive"}), {"name": "embedding"}),
    (frozenset({"text", "label"}), {"name": "classification"}),
    (frozenset({"text", "labels"}), {"name": "classification", "several": True}),
)
EXCHANGE = frozenset({"input", "target"})


def task_of(place: Folder, columns: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    """(the task as a recipe's section, the columns that told it). `columns` renames as data.columns does.

    Raises InputError where the columns fit no task, or several.
    """
    names = {*_names(place, columns)}
    meant = {field for field, column in columns.items() if column in names}
    names = (names - {columns[field] for field in meant}) | meant
    for needed, task in RULES:
        if needed <= names and task["name"] in TASKS:
            return dict(task), " and ".join(sorted(needed))
    shown = ", ".join(sorted(names)) or "(none)"
    if names >= EXCHANGE:
        fitting = [name for name in TASKS if any(field.kind == "messages" for field in TASKS[name].FIELDS)]
        fitting += [name for name in TASKS if {field.name for field in TASKS[name].FIELDS} >= EXCHANGE]
        raise InputError(
            f"--data {place.url} has the columns {shown}, of which several tasks learn: add --task {' or '.join(fitting)}"
        )
    raise InputError(
        f"--data {place.url} has the columns {shown}, which tell no task: add --task ({', '.join(sorted(TASKS))}), or say which "
        "column is which, such as data.columns.text=COLUMN"
    )


def _names(place: Folder, columns: Mapping[str, str]) -> tuple[str, ...]:
    """The columns of a file; of one that does not say them itself those of its first record."""
    try:
        file = reading.read(place, _fields(), columns)
        if file.names is not None:
            return file.names
        for number, record in file.records:
            if isinstance(record, Complaint):
                raise InputError(f"--data {place.url}: {file.word} {number} {record}")
            if not isinstance(record, dict):
                raise InputError(
                    f"--data {place.url}: {file.word} {number} is not an object but {type(record).__name__}"
                )
            return tuple(record)
    except Unreadable as error:
        raise InputError(f"--data {place.url} {error}") from None
    raise InputError(f"--data {place.url} holds no examples")


def _fields() -> tuple[Field, ...]:
    """Every field of every task, so that no reader leaves a column out."""
    return tuple({field.name: field for task in TASKS.values() for field in task.FIELDS}.values())
