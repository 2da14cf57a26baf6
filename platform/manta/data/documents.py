"""Reads files into documents, whatever their format; what cannot be read is set aside, never fatal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from manta.data.formats import FORMATS
from manta.data.formats.found import Unreadable
from manta.data.formats.opening import Damaged, opened
from manta.data.sources import File
from manta.sections.prepare import Source

__all__ = ["FORMATS", "Document", "Unreadable", "read"]


@dataclass(frozen=True)
class Document:
    """One text. `id` is the file's id, with `#index` (of a web archive `#address`) where a file holds several."""

    id: str
    source: int  # index into data.sources
    text: str


# A file that is damaged, vanished or forbidden is set aside. Any other OSError (a network that fails, a full disk) is
# not the file's fault: it stops the run, which can be resumed.
FORBIDDEN = (PermissionError, FileNotFoundError, IsADirectoryError)


def read(file: File, source: Source) -> Iterator[Document | Unreadable]:
    """The documents of one file, in order, and what could not be read. Compressed files are told by their ending.

    What stands before a damage is read. Memory is bounded by a line, a batch of rows or a record; of the formats of
    which a file is one document, by the file.
    """
    try:
        with opened(file.url) as handle:
            for found in FORMATS[source.format](handle, file, source):
                yield found if isinstance(found, Unreadable) else Document(found[0], file.source, found[1])
    except FORBIDDEN as error:
        yield Unreadable(file.id, 0, f"cannot be opened: {error.strerror or error}")
    except Damaged as error:
        yield Unreadable(file.id, error.offset, f"damaged: {error}")
