"""Cuts a corpus into ranges of documents, one for each shard."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def ranges(sizes: Sequence[int], wanted: float) -> list[tuple[int, int]]:
    """Cut documents of these sizes, in order, into [start, end) ranges of about `wanted` in total, as even as they go.

    Every document is in exactly one range and no range is empty. The cuts depend on the sizes alone.
    """
    import numpy as np

    ends = np.cumsum(np.asarray(sizes, dtype=np.int64))
    if not len(ends):
        return []
    count = max(1, round(int(ends[-1]) / wanted))
    marks = [int(ends[-1]) * i / count for i in range(1, count)]
    cuts = sorted({0, len(ends), *(int(cut) for cut in np.searchsorted(ends, marks, side="left") + 1)})
    return list(pairwise(cuts))
