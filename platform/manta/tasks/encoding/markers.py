"""Marks around the two entities of a text, and what is kept of a text that is too long for both."""

from __future__ import annotations

from collections.abc import Sequence

MARKERS = ("[E1]", "[/E1]", "[E2]", "[/E2]")  # around the head, around the tail


def marked(text: str, head: Sequence[int], tail: Sequence[int]) -> str:
    """The text with markers around both spans, [start, end] in characters each.

    A blank before an entity moves behind its marker, so that tokenizers which keep blanks read the word as in running
    text. Of entities within each other the longer one's markers stand outside, of equal ones the head's.
    """
    events: list[tuple[int, int, int, int]] = []  # place, then what decides between marks at the same place
    for number, (start, end) in enumerate((head, tail)):
        begin = start - 1 if start and text[start - 1] == " " else start
        events += [(begin, 1, -end, 2 * number), (end, 0, -start, -2 * number - 1)]
    parts, before = [], 0
    for place, _, _, marker in sorted(events):
        parts += [text[before:place], MARKERS[abs(marker)]]
        before = place
    return "".join([*parts, text[before:]])


def around(first: int, last: int, total: int, room: int) -> tuple[int, int] | None:
    """The part [start, end) of `total` tokens that holds [first, last) and as much before as behind, `room` in all.

    What one side does not need the other gets. None where [first, last) does not fit.
    """
    spare = room - (last - first)
    if spare < 0:
        return None
    before = min(first, max(spare // 2, spare - (total - last)))
    return first - before, min(total, last + spare - before)
