"""English text for the benchmarks, the same on every machine with the same environment: nothing is fetched or shipped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import harness

from manta.data import documents, sources
from manta.data.documents import Document
from manta.sections import Source

SOURCES = [
    Source(path="python://site-packages/*.dist-info/METADATA", format="package_metadata"),
    Source(path="python://stdlib/**/*.py", format="docstrings"),
]


def english(megabytes: int) -> Path:
    """A JSONL file of this many MB (10^6 bytes) of text: READMEs and docstrings of what is installed.

    There are some megabytes of those. More is made by repeating them with the lines of each text rotated, another way in
    each round, so that no document occurs twice. Made once and kept in runs/benchmarks.
    """
    path = harness.SCRATCH / f"english-{megabytes}mb.jsonl"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    texts = list(dict.fromkeys(_texts()))
    size = 0
    with scratch.open("w", encoding="utf-8") as out:
        for turn, text in ((turn, text) for turn in range(10**6) for text in texts):
            lines = text.splitlines()
            cut = turn % len(lines)
            changed = "\n".join([*lines[cut:], *lines[:cut]])
            out.write(json.dumps({"text": changed}, ensure_ascii=False) + "\n")
            size += len(changed.encode())
            if size >= megabytes * 10**6:
                break
    scratch.replace(path)
    return path


def _texts() -> Iterator[str]:
    for file in sources.list_files(SOURCES):
        for found in documents.read(file, SOURCES[file.source]):
            if isinstance(found, Document) and len(found.text) >= 200:
                yield found.text
