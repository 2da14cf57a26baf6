"""JSON Lines, and JSON files that hold one array of records."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any

from manta.tasks.reading.found import ICONV, Complaint, File, Unreadable, decoded, not_utf8


def read(data: bytes) -> File:
    """The records of JSON Lines, or of an array, which is known by the bracket that the file begins with."""
    data = data.removeprefix(codecs.BOM_UTF8)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        decoded(data)  # says so
    if _is_array(data):
        return File("item", enumerate(_array(data), 1))
    return File("line", _lines(data))


def _is_array(data: bytes) -> bool:
    """Lines may be arrays as well, wrongly; they end on the line they begin on, and another begins below."""
    head = data.lstrip()[:1]
    if head != b"[":
        return False
    first, _, rest = data.strip().partition(b"\n")
    return not (first.rstrip().endswith(b"]") and rest.lstrip()[:1] in (b"[", b"{"))


def _array(data: bytes) -> list[Any]:
    try:
        found = json.loads(decoded(data))
    except json.JSONDecodeError as error:
        raise Unreadable(
            f"is broken JSON: line {error.lineno}, column {error.colno}: {error.msg}: mend it, or write one record a line (.jsonl)"
        ) from None
    return [Complaint("holds half a surrogate pair") if _halved(item) else item for item in found]


def _lines(data: bytes) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(data.split(b"\n"), 1):
        if line and not line.isspace():
            yield number, _record(line)


def _record(line: bytes) -> Any:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        return Complaint(f"{not_utf8(line)}: {ICONV}")
    except json.JSONDecodeError as error:
        return Complaint(f"is not JSON ({error.msg} at column {error.colno})")
    # Only an escape can bring in what UTF-8 cannot hold, and no tokenizer takes.
    if b"\\ud" in line.lower() and _halved(record):
        return Complaint("holds half a surrogate pair, which is no character: write the text as UTF-8")
    return record


def _halved(record: Any) -> bool:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False
