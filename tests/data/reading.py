"""What tests of readers share: a file read as a recipe's source would be, and the compressions a file may have."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import zstandard

from manta.data import documents, sources
from manta.data.documents import Document, Unreadable
from manta.sections.prepare import Source

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress, "bz2": bz2.compress, "xz": lambda data: lzma.compress(data, preset=0), "zst": zstandard.ZstdCompressor().compress,
}  # fmt: skip


def read(path: Path, form: str, data: bytes | None = None, **more: object) -> tuple[list[Document], list[Unreadable]]:
    if data is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    source = Source.model_validate({"path": str(path), "format": form, **more})
    found = [item for file in sources.list_files([source]) for item in documents.read(file, source)]
    return [x for x in found if isinstance(x, Document)], [x for x in found if isinstance(x, Unreadable)]
