"""English text for the benchmarks, the same on every machine with the same environment: nothing is fetched or shipped."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import harness

from manta.data import documents, sources
from manta.data.documents import Document
from manta.sections.prepare import Source

SOURCES = [
    Source(path="python://site-packages/*.dist-info/METADATA", format="package_metadata"),
    Source(path="python://stdlib/**/*.py", format="docstrings"),
]


FILES = 16


def english(megabytes: int) -> Path:
    """A folder of 16 JSONL files with this many MB (10^6 bytes) of text in all: READMEs and docstrings of what is installed.

    There are some megabytes of those. More is made by repeating them with the lines of each text rotated, another way in
    each round, so that no document occurs twice. Made once and kept in runs/benchmarks.
    """
    folder = harness.SCRATCH / f"english-{megabytes}mb"
    if folder.exists():
        return folder
    scratch = folder.with_suffix(".tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    texts = list(dict.fromkeys(_texts()))
    size, wanted = 0, megabytes * 10**6
    with contextlib.ExitStack() as open_files:
        files = [
            open_files.enter_context((scratch / f"{number:02}.jsonl").open("w", encoding="utf-8"))
            for number in range(FILES)
        ]
        for turn, text in ((turn, text) for turn in range(10**6) for text in texts):
            lines = text.splitlines()
            cut = turn % len(lines)
            changed = "\n".join([*lines[cut:], *lines[:cut]])
            files[size * FILES // wanted].write(json.dumps({"text": changed}, ensure_ascii=False) + "\n")
            size += len(changed.encode())
            if size >= wanted:
                break
    scratch.replace(folder)
    return folder


def _texts() -> Iterator[str]:
    for file in sources.list_files(SOURCES):
        for found in documents.read(file, SOURCES[file.source]):
            if isinstance(found, Document) and len(found.text) >= 200:
                yield found.text
