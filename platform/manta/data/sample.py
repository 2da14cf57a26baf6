"""A few rows of a prepared split, chosen by seed: what calibration and evaluation read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from manta.data.shards import Shard, load_index, read_rows
from manta.storage import Folder

if TYPE_CHECKING:
    import numpy as np


def locate(rows: Sequence[int], shards: Sequence[Shard]) -> dict[str, list[tuple[int, int]]]:
    """Where rows of a split are: shard path -> [(place in `rows`, row within the shard), ...]."""
    places: dict[str, list[tuple[int, int]]] = {}
    first = 0
    for shard in shards:
        inside = [(place, row - first) for place, row in enumerate(rows) if first <= row < first + shard.rows]
        if inside:
            places[shard.path] = inside
        first += shard.rows
    return places


def sample_rows(folder: Folder, split: str, count: int, seed: int) -> np.ndarray:
    """`count` rows of the split (all, if it has fewer), each once: (rows, seq_len) int32, a pure function of the seed.

    A larger count of the same seed begins with the rows of a smaller one.
    """
    import numpy as np

    from manta.data.order import permute

    index = load_index(folder)
    total = index.rows(split)
    chosen = permute(np.arange(min(count, total)), total, seed)  # (rows,)
    sample = np.empty((len(chosen), index.seq_len), dtype=np.int32)
    for path, places in locate(chosen.tolist(), index.splits[split]).items():
        shard = read_rows(folder, path)
        for place, row in places:
            sample[place] = shard[row]
    return sample
