"""Sources in stated proportions: which rows an epoch shows, as arithmetic on row numbers; nothing is copied or stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from manta.data import order


def quotas(rows: Sequence[int], weights: Sequence[float], max_repeats: float) -> list[int]:
    """How many rows of each source an epoch shows, in proportion to the weights, exact to one row.

    `rows` are those that each source has. The epoch is as long as `max_repeats` passes over the source that runs out
    first allow. Rounded by largest remainders, so that the quotas add up to the epoch's length.
    """
    shares = [weight / sum(weights) for weight in weights]
    length = int(min(max_repeats * count / share for count, share in zip(rows, shares, strict=True)))
    exact = [length * share for share in shares]
    found = [int(quota) for quota in exact]
    by_remainder = sorted(range(len(found)), key=lambda i: (found[i] - exact[i], i))
    for i in by_remainder[: length - sum(found)]:
        found[i] += 1
    return found


def rows_of(samples: np.ndarray, rows: Sequence[int], shown: Sequence[int], seed: int) -> np.ndarray:
    """The split's row (int64) of each global sample index, of sources that have `rows` and show `shown` an epoch.

    An epoch's places are permuted as without a mixture; a place belongs to a source, whose rows are drawn without
    repetition, in an order of the seed, pass after pass, through all epochs. So a source that an epoch shows in part
    goes on where the epoch before left off, and no row is shown twice more often than another of its source.
    """
    samples = np.asarray(samples, dtype=np.int64)
    ends, begins = np.cumsum(shown), np.concatenate([[0], np.cumsum(rows)[:-1]])
    length = int(ends[-1])
    places, epochs = order.rows_of(samples, length, seed), samples // length
    which = np.searchsorted(ends, places, side="right")
    out = np.empty_like(samples)
    for source in np.unique(which):
        mine, count = which == source, rows[source]
        drawn = epochs[mine] * shown[source] + places[mine] - (ends[source] - shown[source])
        out[mine] = begins[source] + order.permute(drawn % count, count, seed, drawn // count)
    return out
