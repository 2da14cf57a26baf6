"""MinHash signatures of shingles, folded into one hash a band: texts that share a band are taken for near-duplicates."""

from __future__ import annotations

from typing import Any

import numpy as np

from manta.data.shingles import mix

SEED = 1


def band_hashes(hashes: Any, offsets: Any, bands: int, rows: int) -> tuple[Any, Any]:
    """The band hashes of each text: uint64 (num_found, bands), and which texts these are, int64 (num_found,) ascending.

    `hashes` and `offsets` as `shingles` gives them; texts without a shingle are left out. Two texts of Jaccard similarity
    J agree in at least one band with probability 1 - (1 - J^rows)^bands (Broder 1997; Leskovec, Rajaraman and Ullman,
    Mining of Massive Datasets, chapter 3). Same shingles, same hashes, however often and in whatever order they come.
    """
    from rensa import RMinHash

    found = np.flatnonzero(np.diff(offsets))
    if not len(found):
        return np.zeros((0, bands), np.uint64), found
    starts = np.append(offsets[found], offsets[-1]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, starts, bands * rows, SEED)
    signatures = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(found), bands, rows)
    # The band's number goes in first, so that the same rows in two different bands do not meet.
    folded = np.broadcast_to(mix(np.arange(1, bands + 1, dtype=np.uint64)), (len(found), bands))
    for row in range(rows):
        folded = mix(folded ^ signatures[:, :, row])
    return folded, found
