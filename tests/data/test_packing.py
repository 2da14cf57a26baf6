"""The ranges of documents that become shards: every document in one of them, all about as large."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from manta.data import packing


@given(st.lists(st.integers(0, 1000), max_size=60), st.floats(1, 3000))
def test_ranges_hold_every_document_once_and_none_is_empty(sizes: list[int], wanted: float) -> None:
    found = packing.ranges(sizes, wanted)
    assert [i for start, end in found for i in range(start, end)] == list(range(len(sizes)))
    assert all(start < end for start, end in found)


def test_ranges_are_about_as_large_as_wanted() -> None:
    sizes = [10] * 1000
    totals = [sum(sizes[start:end]) for start, end in packing.ranges(sizes, 990)]
    assert len(totals) == 10
    assert max(totals) - min(totals) <= 10
    assert packing.ranges([5000, 1, 1], 100)[0] == (0, 1), "one document larger than a range is a range"
