"""Reads plain text: a file is one document."""

from __future__ import annotations

import io
from collections.abc import Iterator

from manta.data.formats.found import Found, Unreadable
from manta.data.sources import File
from manta.sections.prepare import Source


def text(handle: io.BufferedReader, file: File, _source: Source) -> Iterator[Found]:
    """The whole file, UTF-8, is one document."""
    try:
        yield file.id, handle.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield Unreadable(file.id, error.start, "not UTF-8")
