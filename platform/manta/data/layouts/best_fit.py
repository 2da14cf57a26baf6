"""Each document in the fullest row that still holds it: fewer documents are cut, and some padding is the price."""

from __future__ import annotations

import numpy as np

from manta.data.layouts.rows import Documents, Rows, positions
from manta.sections.layout import BestFit


def lay(documents: Documents, settings: BestFit) -> Rows:
    """Pack by best-fit decreasing (Ding et al. 2024, arXiv:2404.10830, algorithm 1).

    Documents longer than a row are first cut into pieces of a row and a remainder. With `isolate` the `position_ids`
    restart at each piece; each token of the padding is a document of its own, which sees and teaches nothing.
    """
    seq_len = documents.seq_len
    stream, ends = documents.closed(opened=settings.isolate)
    begins = np.concatenate([[0], ends[:-1]]).astype(np.int64) if len(ends) else ends
    pieces = [
        (at, min(at + seq_len, end))
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)
        for at in range(begin, end, seq_len)
    ]
    rows = assign([end - start for start, end in pieces], seq_len)
    ids = np.full((len(rows), seq_len), documents.filler, dtype=np.int32)
    starts: list[int] = []
    for number, members in enumerate(rows):
        at = 0
        for piece in members:
            start, end = pieces[piece]
            ids[number, at : at + end - start] = stream[start:end]
            starts.append(number * seq_len + at)
            at += end - start
        starts.extend(range(number * seq_len + at, (number + 1) * seq_len))
    columns = {"input_ids": ids}
    if settings.isolate:
        columns["position_ids"] = positions(starts, ids.size).reshape(-1, seq_len)
    cut = int((ends - begins > seq_len).sum())
    return Rows(columns, len(stream), padding=ids.size - len(stream), documents_cut=cut)


def assign(sizes: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: which items (sizes in 1..capacity) share a bin of `capacity`. Each is in exactly one.

    An item goes to the bin with the least room that is enough, of those to the one that came to that room last.
    """
    bins: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]  # bins by the room they have left
    open_rooms = 0  # bit r is set if a bin has room r: the least that is enough is one shift away
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        size = sizes[item]
        enough = open_rooms >> size
        if enough:
            room = size + (enough & -enough).bit_length() - 1
            chosen = with_room[room].pop()
            if not with_room[room]:
                open_rooms ^= 1 << room
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(item)
        if left := room - size:
            with_room[left].append(chosen)
            open_rooms |= 1 << left
    return bins
