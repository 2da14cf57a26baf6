"""The order of training rows as a pure function of (seed, epoch, sample index): nothing is stored, nothing is shuffled.

The permutation of an epoch is a balanced Feistel network (Luby and Rackoff, 1988) over the smallest even number of bits
that holds `num_rows`, restricted to [0, num_rows) by cycle walking (Black and Rogaway, "Ciphers with arbitrary finite
domains", 2002, section 4): values that fall outside are encrypted again, fewer than four times on average. Rounds are
keyed by SplitMix64 (Steele, Lea and Flood, 2014). Memory is O(samples asked for), whatever the size of the corpus.
"""

from __future__ import annotations

import numpy as np

from manta.data.draws import GOLDEN, mix

_ROUNDS = 6


def _encrypt(values: np.ndarray, keys: np.ndarray, half_bits: int) -> np.ndarray:
    """One pass of the Feistel network; `keys` is (rounds, samples)."""
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (mix(right + key) & mask)
    return (left << shift) | right


def permute(index: np.ndarray, num_rows: int, seed: int, epoch: np.ndarray | int = 0) -> np.ndarray:
    """Where each `index` (int, in [0, num_rows)) of `epoch` lands: int64, a bijection of [0, num_rows) per (seed, epoch).

    `epoch` may be one number or one per index.
    """
    index = np.asarray(index)
    if num_rows < 1 or (index.size and (index.min() < 0 or index.max() >= num_rows)):
        raise ValueError(f"index must lie in [0, {num_rows})")
    half_bits = max(1, ((num_rows - 1).bit_length() + 1) // 2)
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        base = mix(np.uint64(seed) * GOLDEN + mix(np.broadcast_to(epoch, index.shape).astype(np.uint64) + np.uint64(1)))
        rounds = np.arange(1, _ROUNDS + 1, dtype=np.uint64)[:, None]
        keys = mix(base[None, :] + rounds * GOLDEN)  # (rounds, samples)
        values = _encrypt(index.astype(np.uint64), keys, half_bits)
        while (outside := values >= np.uint64(num_rows)).any():
            values[outside] = _encrypt(values[outside], keys[:, outside], half_bits)
    return values.astype(np.int64)


def rows_of(samples: np.ndarray, num_rows: int, seed: int) -> np.ndarray:
    """The corpus row (int64) of each global sample index: sample i is place i % num_rows of epoch i // num_rows."""
    samples = np.asarray(samples, dtype=np.int64)
    return permute(samples % num_rows, num_rows, seed, samples // num_rows)


def step_samples(steps: np.ndarray, batch: int, rank: int, workers: int) -> np.ndarray:
    """Global sample indices that `rank` of `workers` trains on in each of `steps`: int64 (steps, batch / workers).

    Ranks in turn make up the global batch, so the batch of a step is the same samples in the same order for any
    `workers` that divides `batch`.
    """
    if batch % workers:
        raise ValueError(f"a global batch of {batch} rows cannot be shared by {workers} workers")
    share = batch // workers
    first = np.asarray(steps, dtype=np.int64)[:, None] * batch + rank * share
    return first + np.arange(share, dtype=np.int64)[None, :]
