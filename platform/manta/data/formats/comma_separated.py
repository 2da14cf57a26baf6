"""Reads CSV as RFC 4180 has it: a header, commas, fields in double quotes that may hold line ends."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from manta.data.formats.found import BYTE_ORDER_MARK, MAX_LINE, Found, Unreadable, lines, no_column
from manta.data.sources import File
from manta.sections.prepare import Source


def comma_separated(handle: io.BufferedReader, file: File, source: Source) -> Iterator[Found]:
    """One record, one document; the header names `source.text_column`. What is set aside has its first line as offset.

    After a record with broken quotes reading goes on at the next line. A quote that is never closed takes all
    records up to the next quote with it.
    """
    csv.field_size_limit(MAX_LINE)  # of the whole process: the module's default refuses long texts
    records = csv.reader(_decoded(handle), strict=True)
    column = width = -1
    index = 0
    while True:
        line = records.line_num + 1
        try:
            fields = next(records)
        except StopIteration:
            break
        except (csv.Error, _TooLong) as error:
            found: str | ValueError = ValueError(f"broken CSV: {error}")
        else:
            if not fields:
                continue  # an empty line
            if column < 0:
                if source.text_column not in fields:
                    yield Unreadable(file.id, line, f"line {line}: {no_column(source.text_column, fields)}")
                    return
                column, width = fields.index(source.text_column), len(fields)
                continue
            found = _field(fields, column, width)
        if isinstance(found, ValueError):
            yield Unreadable(file.id, line, f"line {line}: {found}")
        else:
            yield f"{file.id}#{index}", found
        if column < 0:
            return  # without its header the file cannot be read
        index += 1
    if column < 0:
        yield Unreadable(file.id, 0, "an empty file: CSV begins with a header")


def _field(fields: list[str], column: int, width: int) -> str | ValueError:
    if len(fields) != width:
        return ValueError(f"{len(fields)} fields, the header has {width}")
    try:
        fields[column].encode()
    except UnicodeEncodeError:
        return ValueError("not UTF-8")
    return fields[column]


class _TooLong(Exception):
    """A line that no reader should hold."""


def _decoded(handle: io.BufferedReader) -> Iterator[str]:
    """The lines. Bytes that are not UTF-8 become lone surrogates, which no valid text holds: `_field` sees them."""
    for start, line in lines(handle):
        if line is None:
            raise _TooLong(f"a line of more than {MAX_LINE >> 20} MiB")
        yield (line if start else line.removeprefix(BYTE_ORDER_MARK)).decode(errors="surrogateescape")
