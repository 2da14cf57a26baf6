"""Texts in columns: CSV (RFC 4180), TSV (no quotes), and the CoNLL files of tagging, a word and its tag a line."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

from manta.tasks.reading.found import Complaint, File, Unreadable, decoded

LONGEST = 64 << 20  # characters of a cell; the csv module's own limit refuses long texts
DOCUMENT = "-DOCSTART-"  # CoNLL's mark of a new document, which is no sentence
COMMENT = re.compile(r"# ?(id|sent_id|text|newdoc|newpar)\b")  # before a sentence; "#" is also a word


def read(data: bytes, *, tabs: bool) -> File:
    """The rows under a header, of TSV (`tabs`) or of CSV, which may be divided by semicolons or tabs as well.

    Numbers are those of the line that a row begins on. Fields of CSV in double quotes may hold line ends.
    """
    rows = _parsed(decoded(data), tabs)
    names = _names(rows)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Unreadable(f"has a header that names {twice!r} twice: rename one of the columns")
    return File("line", _rows(rows, names), cells=True, names=tuple(names))


def first_line(data: bytes) -> list[str]:
    """The cells of a TSV file's first line."""
    return [cell.strip() for cell in decoded(data.partition(b"\n")[0]).split("\t")]


def conll(data: bytes) -> File:
    """Sentences, divided by empty lines: the first column is the word, the last its tag; those between are passed over.

    Columns are divided by tabs if the first line has one, else by runs of spaces. A sentence's number is its first
    line's.
    """
    return File("line", _sentences(decoded(data).split("\n")))


def _parsed(text: str, tabs: bool) -> Iterator[tuple[int, Any]]:
    """(line, cells or Complaint) of each row that is not empty."""
    csv.field_size_limit(LONGEST)
    first = text.partition("\n")[0]
    delimiter = "\t" if tabs else max(",;\t", key=first.count)
    handle = io.StringIO(text, newline="")
    if tabs:
        rows = csv.reader(handle, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    else:
        rows = csv.reader(handle, delimiter=delimiter, strict=True)
    while True:
        line = rows.line_num + 1
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, Complaint(f"is broken CSV ({error}): check its quotes")
            continue
        if cells:
            yield line, cells


def _names(rows: Iterator[tuple[int, Any]]) -> list[str]:
    first = next(rows, None)
    if first is None or isinstance(first[1], Complaint):
        raise Unreadable("has no header: name the columns in its first line")
    return [name.strip() for name in first[1]]


def _rows(rows: Iterator[tuple[int, Any]], names: list[str]) -> Iterator[tuple[int, Any]]:
    for line, cells in rows:
        if isinstance(cells, Complaint):
            yield line, cells
        elif len(cells) != len(names):
            yield line, Complaint(f"has {len(cells)} cells where the header has {len(names)}")
        else:
            yield line, dict(zip(names, cells, strict=True))


def _sentences(lines: list[str]) -> Iterator[tuple[int, Any]]:
    first = next((line for line in lines if line.strip() and not _aside(line)), "")
    separator = "\t" if "\t" in first else None
    width = len(first.split(separator))
    start = 0
    words: list[str] = []
    tags: list[str] = []
    wrong: tuple[int, Complaint] | None = None
    for number, line in enumerate([*lines, ""], 1):
        if not line.strip() or (_aside(line) and (not words or line.startswith(DOCUMENT))):
            if wrong or words:
                yield wrong or (start, {"tokens": words, "tags": tags})
            start, words, tags, wrong = 0, [], [], None
            continue
        cells = [cell.strip() for cell in line.split(separator)]
        if (len(cells) != width or len(cells) < 2) and wrong is None:
            told = (
                f"has {len(cells)} columns, the file's first line {width}" if len(cells) != width else "has one column"
            )
            wrong = number, Complaint(f"{told}: a word and its tag are needed")
        start = start or number
        words.append(cells[0])
        tags.append(cells[-1])


def _aside(line: str) -> bool:
    return line.startswith(DOCUMENT) or COMMENT.match(line) is not None
