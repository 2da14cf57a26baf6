"""Documents one after the other, cut into rows."""

from __future__ import annotations

import numpy as np

from manta.data.layouts.rows import Documents, Rows, positions
from manta.sections.layout import Concat


def lay(documents: Documents, settings: Concat) -> Rows:
    """Concatenate the documents and cut the stream into rows; what fills no row at its end is left over.

    A row may hold the end of one document and the beginning of the next. With `isolate` there are `position_ids` beside
    the `input_ids`, which restart at each document and each row.
    """
    seq_len = documents.seq_len
    stream, ends = documents.closed(opened=settings.isolate)
    whole = len(stream) // seq_len * seq_len
    columns = {"input_ids": stream[:whole].reshape(-1, seq_len)}
    begins = np.concatenate([[0], ends[:-1]]).astype(np.int64) if len(ends) else ends
    if settings.isolate:
        starts = np.union1d(begins[begins < whole], np.arange(0, whole, seq_len))
        columns["position_ids"] = positions(starts, whole).reshape(-1, seq_len)
    # Whole in one row: the row of its first token is that of its last, and there is such a row.
    cut = (begins // seq_len != (ends - 1) // seq_len) | (ends > whole)
    return Rows(columns, len(stream), left_over=len(stream) - whole, documents_cut=int(cut.sum()))
