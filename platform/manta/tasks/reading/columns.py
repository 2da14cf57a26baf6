"""A file whose columns are called otherwise: which ones the task wants, which there are, and what to set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manta.tasks.fields import EXCHANGE, Field, shape
from manta.tasks.reading.found import Complaint, File, Unreadable
from manta.tasks.reading.record import opened


def refuse_columns(
    file: File, records: Sequence[Any], fields: Sequence[Field], columns: Mapping[str, str], task: str
) -> None:
    """Raise Unreadable if all `records` lack the same field, for then it is the file that is meant otherwise."""
    held = [opened(record, fields, columns, cells=file.cells) for record in records]
    lacking = [_lacking(fields, record) for record in held if not isinstance(record, Complaint)]
    if len(lacking) < len(held) or not (common := set.intersection(*lacking)):
        return
    names = file.names if file.names is not None else tuple(records[0])
    names = tuple(name for name in names if name not in columns)
    absent = [column for column in columns.values() if column not in names]
    wanted = [field.name for field in fields if not field.optional]
    if absent:
        told = f"data.columns names {' and '.join(map(repr, absent))}: name one that there is"
    else:
        told = (
            f"{task} needs {_listed(wanted)}: {_remedy(common, [name for name in names if name not in wanted], wanted)}"
        )
    raise Unreadable(f"has the columns {', '.join(names) or '(none)'}; {told}")


def _lacking(fields: Sequence[Field], record: dict[str, Any]) -> set[str]:
    return {field.name for field in shape(fields, record) if not field.optional and record.get(field.name) is None}


def _listed(wanted: list[str]) -> str:
    if "chosen" in wanted:
        return f"messages or {EXCHANGE[0].name}, and {' and '.join(name for name in wanted if name != 'messages')}"
    exchange = " and ".join(field.name for field in EXCHANGE)
    return f"messages, or {exchange}" if "messages" in wanted else " and ".join(wanted)


def _remedy(lacking: set[str], unused: list[str], wanted: list[str]) -> str:
    if {"messages", "conversations"} & set(unused):
        return "these are conversations: set task.name=chat"
    if lacking == {"label"} and "labels" in unused:
        return "set task.several=true, if any number of labels may hold at once"
    if lacking == {"labels"} and "label" in unused:
        return "set task.several=false, if each text has one label"
    first = next((name for name in wanted if name in lacking), sorted(lacking)[0])
    first = EXCHANGE[0].name if first == "messages" else first
    if not unused:
        return f"add the column {first!r}"
    return f"say which it is, such as data.columns.{first}={unused[0]}"
