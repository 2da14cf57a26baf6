"""Reads JSON lines: one object a line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

from manta.data.formats.found import BYTE_ORDER_MARK, MAX_LINE, Found, Unreadable, checked, lines, no_column
from manta.data.sources import File
from manta.sections.prepare import Source


def jsonl(handle: io.BufferedReader, file: File, source: Source) -> Iterator[Found]:
    """One JSON object a line; `source.text_column` holds the text. Empty lines are skipped."""
    index = 0
    for start, line in lines(handle):
        if line is not None:
            line = line if start else line.removeprefix(BYTE_ORDER_MARK)
            if not line.strip():
                continue
        index += 1
        found = _json_text(line, source.text_column)
        if isinstance(found, ValueError):
            yield Unreadable(file.id, start, str(found))
        else:
            yield f"{file.id}#{index - 1}", found


def _json_text(line: bytes | None, column: str) -> str | ValueError:
    if line is None:
        return ValueError(f"a line of more than {MAX_LINE >> 20} MiB")
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        return ValueError("not UTF-8")
    except (json.JSONDecodeError, RecursionError) as error:
        return ValueError(f"not JSON: {getattr(error, 'msg', 'nested too deeply')}")
    if not isinstance(record, dict):
        return ValueError(f"a JSON object is needed, this is a {type(record).__name__}")
    if column not in record:
        return ValueError(no_column(column, sorted(record)))
    return checked(record[column], column)
