"""Packing loses, repeats and reorders nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from manta.data import packing

EOS = 99


@given(st.lists(st.lists(st.integers(0, 98), max_size=12), max_size=12), st.integers(1, 9))
def test_rows_and_tail_are_the_documents_each_closed_by_eos(documents: list[list[int]], seq_len: int) -> None:
    rows, tail = packing.pack(documents, EOS, seq_len)
    assert rows.dtype == tail.dtype == np.int32
    assert rows.shape[1:] == (seq_len,)
    assert len(tail) < seq_len
    stream = [token for document in documents for token in [*document, EOS]]
    assert [*rows.reshape(-1).tolist(), *tail.tolist()] == stream


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
