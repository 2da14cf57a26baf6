"""Reads labelled files: one module a format, each giving numbered records; then one example's fields out of each record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from manta.storage import Folder
from manta.tasks.fields import Field
from manta.tasks.reading import columnar, json_files, tables
from manta.tasks.reading.found import File, Unreadable

WORDS_AND_TAGS = (".conll", ".bio", ".iob", ".iob2", ".bioes", ".txt")
KNOWN = ".jsonl, .json, .parquet, .csv, .tsv, or .conll for tagging"


def read(folder: Folder, fields: Sequence[Field], columns: Mapping[str, str]) -> File:
    """The records of a file of any known format, told by the ending of its name.

    `fields` are those of the task and `columns` what data.columns says of them. Raises Unreadable, whose text follows
    the file's name.
    """
    url, tagging = folder.url.lower(), any(field.kind == "tags" for field in fields)
    if url.endswith((".jsonl", ".ndjson", ".json")):
        return json_files.read(read_bytes(folder))
    if url.endswith(".parquet"):
        return columnar.read(read_bytes(folder), fields, columns)
    if url.endswith(".csv"):
        return tables.read(read_bytes(folder), tabs=False)
    if url.endswith(".tsv"):
        data = read_bytes(folder)
        names = {columns.get(field.name, field.name) for field in fields}
        headless = tagging and not names & set(tables.first_line(data))
        return tables.conll(data) if headless else tables.read(data, tabs=True)
    if tagging and url.endswith(WORDS_AND_TAGS):
        return tables.conll(read_bytes(folder))
    raise Unreadable(f"is of no known format: give it one of these endings ({KNOWN}), or convert it")


def read_bytes(folder: Folder) -> bytes:
    """All of a file, on any filesystem."""
    from fsspec.core import open as open_url

    with open_url(folder.url, "rb") as handle:
        return bytes(handle.read())
