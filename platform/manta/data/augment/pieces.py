"""Cuts a long text where it may be cut, for models that read and write only so much at once."""

from __future__ import annotations

import re
from typing import NamedTuple

# The best place first: between paragraphs, lines, sentences, words.
PLACES = tuple(map(re.compile, (r"\n\s*\n", r"\n", r"[.!?…][\"'”’)\]]*\s+|[。！？；…][”’』」）]*", r"\s+")))


class Piece(NamedTuple):
    """`core` begins and ends with what is not white space; the white space around it is kept apart."""

    before: str
    core: str
    after: str


def cut(text: str, limit: int) -> list[Piece]:
    """The text as pieces of at most `limit` characters each; one after the other they are the text again.

    A piece ends at the last good place in its second half, and in the middle of a word only where there is none. Pieces
    of white space alone are joined to the one before.
    """
    pieces: list[Piece] = []
    at = 0
    while at < len(text):
        end = _end(text, at, limit)
        part = text[at:end]
        core = part.strip()
        if core:
            start = part.index(core)
            pieces.append(Piece(part[:start], core, part[start + len(core) :]))
        elif pieces:
            pieces[-1] = pieces[-1]._replace(after=pieces[-1].after + part)
        else:
            pieces.append(Piece(part, "", ""))
        at = end
    return pieces


def _end(text: str, at: int, limit: int) -> int:
    if len(text) - at <= limit:
        return len(text)
    least = at + (limit + 1) // 2
    for place in PLACES:
        ends = [match.end() for match in place.finditer(text, least, at + limit)]
        if ends:
            return ends[-1]
    return at + limit
