"""Marks around two entities by hand, and what is kept around them."""

from __future__ import annotations

import pytest

from manta.tasks.encoding.markers import around, marked


@pytest.mark.parametrize(
    ("text", "head", "tail", "wanted"),
    [
        ("Jo works for Acme.", [0, 2], [13, 17], "[E1]Jo[/E1] works for[E2] Acme[/E2]."),
        ("Jo works for Acme.", [13, 17], [0, 2], "[E2]Jo[/E2] works for[E1] Acme[/E1]."),
        ("the Acme boss", [4, 13], [4, 8], "the[E1][E2] Acme[/E2] boss[/E1]"),
        ("the Acme boss", [4, 8], [4, 13], "the[E2][E1] Acme[/E1] boss[/E2]"),
        ("a b", [2, 3], [2, 3], "a[E1][E2] b[/E2][/E1]"),
        ("ab", [0, 1], [1, 2], "[E1]a[/E1][E2]b[/E2]"),
        ("小明在北京", [0, 2], [3, 5], "[E1]小明[/E1]在[E2]北京[/E2]"),
    ],
)
def test_entities_are_marked(text: str, head: list[int], tail: list[int], wanted: str) -> None:
    found = marked(text, head, tail)
    assert found == wanted
    for marker in ("[E1]", "[/E1]", "[E2]", "[/E2]"):
        found = found.replace(marker, "")
    assert found == text


@pytest.mark.parametrize(
    ("first", "last", "total", "room", "wanted"),
    [
        (10, 14, 30, 10, (7, 17)),  # three on both sides
        (10, 14, 30, 11, (7, 18)),
        (1, 5, 30, 10, (0, 10)),  # what is not needed before stands behind
        (25, 29, 30, 10, (20, 30)),
        (10, 14, 30, 4, (10, 14)),
        (10, 14, 30, 3, None),
        (0, 30, 30, 30, (0, 30)),
    ],
)
def test_as_much_before_as_behind_is_kept(
    first: int, last: int, total: int, room: int, wanted: tuple[int, int] | None
) -> None:
    assert around(first, last, total, room) == wanted
