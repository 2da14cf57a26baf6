"""Packs documents of token ids into rows of one length: documents in order, each closed by the end-of-text token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any


def pack(documents: Iterable[Sequence[int]], eos_id: int, seq_len: int) -> tuple[Any, Any]:
    """Concatenate each document's ids and `eos_id`, and cut the stream into rows.

    Returns rows, int32 (num_rows, seq_len), and the tail, int32 (< seq_len,), which fills no row. A row may hold the
    end of one document and the beginning of the next; nothing is padded, repeated or left out between the rows.
    """
    import numpy as np

    pieces = []
    for ids in documents:
        piece = np.empty(len(ids) + 1, dtype=np.int32)
        piece[:-1] = ids
        piece[-1] = eos_id
        pieces.append(piece)
    stream = np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)
    whole = len(stream) // seq_len * seq_len
    return stream[:whole].reshape(-1, seq_len), stream[whole:]


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
