"""One example out of one record of a file: columns renamed, values brought into the form of their field, all checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from manta.tasks.fields import Field, complaint, shape
from manta.tasks.reading import preferences
from manta.tasks.reading.conversations import plain
from manta.tasks.reading.found import Complaint


def example(
    raw: Any, fields: Sequence[Field], columns: Mapping[str, str], *, cells: bool
) -> dict[str, Any] | Complaint:
    """The fields of a record that the task knows, or what is wrong with it.

    `columns` says which column a field is read from, where that is not the field's own name; with `cells` all values
    are texts of a table. Whole numbers as labels become text; answers as in SQuAD become a list.
    """
    record = opened(raw, fields, columns, cells=cells)
    if isinstance(record, Complaint):
        return record
    formed = {f.name: _formed(f, record[f.name], cells) for f in shape(fields, record) if f.name in record}
    if told := complaint(fields, {**record, **formed}):
        return Complaint(told)
    return {name: value for name, value in formed.items() if value is not None}


def opened(raw: Any, fields: Sequence[Field], columns: Mapping[str, str], *, cells: bool) -> dict[str, Any] | Complaint:
    """The record under the fields' own names; conversations of any known shape in ours."""
    if isinstance(raw, Complaint):
        return raw
    if not isinstance(raw, dict):
        return Complaint(f"is not an object but {type(raw).__name__}")
    record = _renamed(raw, columns) if columns else raw
    if any(field.kind == "prompt" for field in fields):
        return preferences.plain({name: _turns(value) for name, value in record.items()} if cells else record)
    if not any(field.kind in ("messages", "turns") for field in fields):
        return record
    if cells:
        turns = {name: _json(record[name]) for name in ("messages", "conversations") if name in record}
        record = {**record, **turns}
    return plain(record)


def _renamed(raw: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The record with each mapped field taken from its column; a column of the field's own name is not that field."""
    kept = {name: value for name, value in raw.items() if name not in columns and name not in columns.values()}
    return {**{field: raw[column] for field, column in columns.items() if column in raw}, **kept}


def _formed(field: Field, value: Any, cells: bool) -> Any:
    if cells and isinstance(value, str):
        value = _cell(field, value)
    if field.kind == "label" and type(value) is int:
        return str(value)
    if field.kind == "labels" and isinstance(value, list):
        return [str(item) if type(item) is int else item for item in value]
    return _answers(value) if field.kind in ("answers", "some_answers") else value


def _cell(field: Field, text: str) -> Any:
    """What a table's text stands for: lists are JSON, or words by spaces (tokens, tags), or by "|" (labels)."""
    if field.kind in ("text", "label"):
        return None if field.optional and not text.strip() else text
    found = _json(text)
    if not isinstance(found, str):
        return found
    if field.kind in ("tokens", "tags"):
        return text.split()
    if field.kind == "labels":
        return [part.strip() for part in text.split("|")] if text.strip() else []
    return text


def _turns(value: Any) -> Any:
    """A text that is a JSON list of turns, or one turn, as such; anything else, other JSON too, as it is."""
    found = _json(value)
    turns = found if isinstance(found, list) else [found]
    known = [isinstance(turn, dict) and bool(turn.keys() & {"role", "from"}) for turn in turns]
    return found if known and all(known) else value


def _json(value: Any) -> Any:
    """A text that is a JSON list or object as such; anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def _answers(value: Any) -> Any:
    """[{"text", "start"}] of {"text": [..], "answer_start": [..]} or [{"text", "answer_start"}]."""
    if isinstance(value, dict) and {"text", "answer_start"} <= value.keys():
        texts, starts = value["text"], value["answer_start"]
        if not (isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)):
            return value
        value = [{"text": text, "start": start} for text, start in zip(texts, starts, strict=True)]
    return [_answer(item) for item in value] if isinstance(value, list) else value


def _answer(item: Any) -> Any:
    if isinstance(item, dict) and "start" not in item and "answer_start" in item:
        return {"text": item.get("text"), "start": item["answer_start"]}
    return item
