"""What a reader finds in a labelled file: numbered records, or why the whole file cannot be read."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any, NamedTuple

ICONV = "save it as UTF-8 (such as: iconv -f CP1252 -t UTF-8 FILE)"


class Unreadable(Exception):
    """A file of which nothing can be used; the text follows its name."""


class Complaint(str):
    """What is wrong with a record: it follows "line 7"."""

    __slots__ = ()


class File(NamedTuple):
    """The records of a file. Those of a table of texts (`cells`) hold nothing but text, whatever the field is."""

    word: str  # what a number counts: "line", "row" or "item"
    records: Iterator[tuple[int, Any]]  # (number, the record or a Complaint), in the file's order
    cells: bool = False
    names: tuple[str, ...] | None = None  # all columns, where the file itself says them


def decoded(data: bytes) -> str:
    """The text of a file, without a byte order mark. Raises Unreadable that names the first line that is not UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise Unreadable("is UTF-16: save it as UTF-8 (such as: iconv -f UTF-16 -t UTF-8 FILE)")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        bad = [number for number, line in enumerate(data.split(b"\n"), 1) if not_utf8(line)]
        told = not_utf8(data.split(b"\n")[bad[0] - 1])
        more = f", and {len(bad) - 1} more lines" if len(bad) > 1 else ""
        raise Unreadable(f"mixes encodings: line {bad[0]} {told}{more}: {ICONV}") from None


def not_utf8(line: bytes) -> Complaint | None:
    """The complaint about a line that is not UTF-8, or None."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return Complaint(f"is not UTF-8 (byte 0x{line[error.start]:02x} at {error.start + 1})")
    return None
