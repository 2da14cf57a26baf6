"""A few rows of a prepared split, chosen by seed, for a model that reads them: calibration's and evaluation's input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from manta.data.respell import check_vocabulary
from manta.data.shards import COLUMN, Shard, load_index, read_rows
from manta.storage import Folder

if TYPE_CHECKING:
    import numpy as np

__all__ = ["check_vocabulary", "locate", "sample_documents", "sample_rows", "token_counts"]


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


def sample_rows(folder: Folder, split: str, count: int, seed: int, column: str = COLUMN) -> np.ndarray:
    """`count` rows of the split (all, if it has fewer), each once: (rows, width) int32, a pure function of the seed.

    A larger count of the same seed begins with the rows of a smaller one.
    """
    import numpy as np

    from manta.data.order import permute

    index = load_index(folder)
    total = index.rows(split)
    chosen = permute(np.arange(min(count, total)), total, seed)  # (rows,)
    found: dict[int, np.ndarray] = {}
    for path, places in locate(chosen.tolist(), index.splits[split]).items():
        shard = read_rows(folder, path, column)
        found |= {place: shard[row] for place, row in places}
    if not found:
        return np.empty((0, index.seq_len), dtype=np.int32)
    return np.stack([found[place] for place in range(len(chosen))])


def sample_documents(folder: Folder, split: str, count: int, seed: int) -> list[list[int]]:
    """The documents (or parts of them) in `count` rows, chosen as by `sample_rows`: lists of at least two ids.

    Rows whose documents do not see each other in training are cut where one begins; others are taken whole.
    """
    import numpy as np

    rows = sample_rows(folder, split, count, seed)
    if "position_ids" not in load_index(folder).columns:
        return [list(row) for row in rows.tolist()]
    positions = sample_rows(folder, split, count, seed, "position_ids")
    found: list[list[int]] = []
    for row, place in zip(rows, positions, strict=True):
        found += [part.tolist() for part in np.split(row, np.flatnonzero(place == 0)[1:]) if len(part) > 1]
    return found


def token_counts(folder: Folder, split: str) -> np.ndarray:
    """How often each token stands in the rows of a split: (vocabulary,) int64. Reads one shard at a time."""
    import numpy as np

    index = load_index(folder)
    counts = np.zeros(index.vocab_size, dtype=np.int64)
    for shard in index.splits.get(split, ()):
        counts += np.bincount(read_rows(folder, shard.path).reshape(-1), minlength=index.vocab_size)
    return counts
