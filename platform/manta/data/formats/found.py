"""What a reader finds in a file: texts, and places that cannot be read; and how values and lines are checked."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass

# A line (or a field of CSV) beyond this is taken for damage: a reader must not hold a whole file.
MAX_LINE = 64 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # what some systems begin UTF-8 files with


@dataclass(frozen=True)
class Unreadable:
    """What was set aside: `offset` in bytes of the decompressed file; of a table the row, of CSV the line."""

    file: str
    offset: int
    reason: str

    def as_json(self) -> dict[str, str | int]:
        return asdict(self)


Found = tuple[str, str] | Unreadable  # (id, text) or what could not be read


def checked(value: object, column: str) -> str | ValueError:
    """A text that can be written as UTF-8, or what is wrong with it."""
    if not isinstance(value, str):
        return ValueError(f"column {column!r} holds a {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        return ValueError(f"column {column!r} holds half a surrogate pair")
    return value


def no_column(column: str, known: list[str]) -> str:
    """The reason that names the columns there are."""
    return f"no column {column!r} (there are: {', '.join(known[:8]) or 'none'})"


def lines(handle: io.BufferedReader) -> Iterator[tuple[int, bytes | None]]:
    """(offset in bytes, line with its end) of each line; None stands for a line of more than `MAX_LINE` bytes."""
    offset = 0
    while line := handle.readline(MAX_LINE):
        start, offset = offset, offset + len(line)
        if len(line) < MAX_LINE or line.endswith(b"\n"):
            yield start, line
            continue
        while (rest := handle.readline(MAX_LINE)) and not rest.endswith(b"\n"):
            offset += len(rest)
        offset += len(rest)
        yield start, None
