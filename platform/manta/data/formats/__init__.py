"""One reader for each format: each takes an open file and gives its texts, and what of it cannot be read."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

from manta.data.formats import comma_separated, json_lines, plain, python, tables, warc, web
from manta.data.formats.found import Found
from manta.data.sources import File
from manta.sections.prepare import Source

FORMATS: dict[str, Callable[[io.BufferedReader, File, Source], Iterator[Found]]] = {
    "text": plain.text,
    "jsonl": json_lines.jsonl,
    "parquet": tables.parquet,
    "csv": comma_separated.comma_separated,
    "html": web.html,
    "warc": warc.warc,
    "datasets": tables.datasets,
    "docstrings": python.docstrings,
    "package_metadata": python.package_metadata,
}
