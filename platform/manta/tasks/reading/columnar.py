"""Parquet files: the columns that a task may use, and the names behind Hugging Face's numbered classes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from manta.tasks.fields import EXCHANGE, Field
from manta.tasks.reading import preferences
from manta.tasks.reading.conversations import KEYS
from manta.tasks.reading.found import Complaint, File, Unreadable


def read(data: bytes, fields: Sequence[Field], columns: Mapping[str, str]) -> File:
    """The rows, of the columns that may matter. Classes stored as numbers are given their names where the file's
    metadata has them (ClassLabel of Hugging Face's datasets)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            names = tuple(file.schema_arrow.names)
            table = file.read(columns=[name for name in names if name in _useful(fields, columns)])
    except (pa.ArrowInvalid, OSError) as error:
        raise Unreadable(f"cannot be read as Parquet ({str(error).splitlines()[0]}): write it again") from None
    classes = _classes(file.schema_arrow.metadata or {})
    values = {name: _values(table.column(name), classes.get(name)) for name in table.column_names}
    return File("row", _rows(values, table.num_rows), names=names)


def _useful(fields: Sequence[Field], columns: Mapping[str, str]) -> set[str]:
    wanted = {columns.get(field.name, field.name) for field in (*fields, *EXCHANGE)}
    told = {"messages": KEYS, "turns": KEYS, "prompt": preferences.KEYS}
    return wanted.union(*(told.get(field.kind, set()) for field in fields))


def _values(column: Any, names: list[str] | None) -> list[Any]:
    """The column's values; one that is not UTF-8 as a Complaint."""
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        values = [_value(scalar) for scalar in column]
    return [_named(value, names) for value in values] if names else list(values)


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return Complaint("is not UTF-8: write the table again from text that is")


def _named(value: Any, names: list[str]) -> Any:
    """The names of class numbers; -1, which stands for no class, is None."""
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return (names[value] if 0 <= value < len(names) else None) if isinstance(value, int) else value


def _classes(metadata: dict[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> class names, of what Hugging Face's datasets write into a schema."""
    if b"huggingface" not in metadata:
        return {}
    features = json.loads(metadata[b"huggingface"]).get("info", {}).get("features", {})
    found = {}
    for column, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else {}
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and inner.get("names"):
            found[column] = list(inner["names"])
    return found


def _rows(values: dict[str, list[Any]], count: int) -> Iterator[tuple[int, Any]]:
    for position in range(count):
        row = {name: column[position] for name, column in values.items()}
        yield position + 1, next((value for value in row.values() if isinstance(value, Complaint)), row)
