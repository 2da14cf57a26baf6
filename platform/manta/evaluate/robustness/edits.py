"""Changes of a text as pieces put in the place of others, so that what stood somewhere is found again afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Edit(NamedTuple):
    """text[start:end] becomes `by`; where both are equal, `by` is put in. Edits of a text are sorted and do not overlap."""

    start: int
    end: int
    by: str


Edits = Sequence[Edit]
Span = tuple[int, int]  # [start, end) in characters


def applied(text: str, edits: Edits) -> str:
    """The text after the edits. Raises ValueError if they overlap or are out of order."""
    pieces, done = [], 0
    for edit in edits:
        if edit.start < done or edit.end < edit.start:
            raise ValueError(f"{edit} overlaps with an edit before it")
        pieces += [text[done : edit.start], edit.by]
        done = edit.end
    return "".join([*pieces, text[done:]])


def moved(span: Span, edits: Edits) -> Span:
    """Where a span that is not empty lies after the edits. What is put in at its ends is outside; an edit across an end is inside."""
    start, end = span
    before = sum(_growth(edit) for edit in edits if edit.end <= start)
    within = sum(_growth(edit) for edit in touching(span, edits))
    first = next((edit.start for edit in edits if edit.start < start < edit.end), start)
    last = next((edit.end for edit in edits if edit.start < end < edit.end), end)
    return first + before, last + before + within


def touching(span: Span, edits: Edits) -> list[Edit]:
    """The edits that change something of a span."""
    return [edit for edit in edits if edit.end > span[0] and edit.start < span[1]]


def sparing(text: str, edits: Edits, spans: Iterable[Span]) -> list[Edit]:
    """The edits without those that would leave nothing of a span but blanks."""
    kept = list(edits)
    for span in spans:
        start, end = moved(span, kept)
        if not applied(text, kept)[start:end].strip():
            kept = [edit for edit in kept if edit not in touching(span, kept)]
    return kept


def confined(edits: Edits, spans: Iterable[Span]) -> list[Edit]:
    """The edits that lie each within one of the spans, and change nothing between them."""
    found = list(spans)
    return [
        edit
        for edit in edits
        if any(start <= edit.start and edit.end <= end and touching((start, end), [edit]) for start, end in found)
    ]


def _growth(edit: Edit) -> int:
    return len(edit.by) - (edit.end - edit.start)
