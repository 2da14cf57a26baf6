"""How random an order is: statistics that are 0 on average, and mostly within 2, for a permutation drawn at random."""

from __future__ import annotations

import math

import numpy as np

NEAR = 4  # rows this close to each other may well come from one document


def deviations(rows: np.ndarray, after: np.ndarray, batch: int, shard_rows: int) -> dict[str, float]:
    """What sets the order `rows` of an epoch, and `after` of the next, apart from random ones.

    Both are permutations of [0, num_rows), int64. `batch` is how many samples make a step, `shard_rows` how many rows
    a file holds. All but `distances` are deviations from what random permutations give on average, in standard
    deviations of theirs; `distances` is a Kolmogorov-Smirnov distance times the square root of the sample, above 1.95
    once in a thousand.
    """
    places = np.empty_like(after)
    places[after] = np.arange(len(after))
    shards, batches = rows // shard_rows, places[rows] // batch
    return {
        "rank_correlation": correlation(np.arange(len(rows)), rows),
        "distances": distances(rows),
        "same_shard": meetings(shards, batch),
        "neighbours": close(rows, batch),
        "epoch_correlation": correlation(rows, after),
        "epoch_batches": meetings(batches, batch),
    }


def largest(found: dict[str, float]) -> float:
    """The most telling of `deviations`."""
    return max(abs(value) for value in found.values())


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation of two permutations, of standard deviation 1/sqrt(n - 1) for random ones."""
    return float(np.corrcoef(one, other)[0, 1] * math.sqrt(len(one) - 1))


def distances(rows: np.ndarray) -> float:
    """How far the distances of consecutive samples' rows are from the triangular law P(d) = 2 (n - d) / (n (n - 1)).

    Each row is used once, so that the distances are all but independent.
    """
    n = len(rows)
    pairs = rows[: n // 2 * 2].reshape(-1, 2)
    found = np.sort(np.abs(pairs[:, 1] - pairs[:, 0]))
    law = lambda d: d * (2.0 * n - d - 1) / (float(n) * (n - 1))  # noqa: E731 - the chance of a distance of at most d
    count = len(found)
    # Distances are whole numbers: both functions are steps, and are compared where one of them jumps.
    above = np.searchsorted(found, found, side="right") / count - law(found)
    below = law(found - 1) - np.searchsorted(found, found, side="left") / count
    return float(max(above.max(), below.max()) * math.sqrt(count))


def meetings(groups: np.ndarray, batch: int) -> float:
    """How much more often than by chance two samples of a batch are of the same group (a file, a batch of before).

    The expectation is the hypergeometric one: C(batch, 2) pairs a batch, each of one group with probability
    sum(s (s - 1)) / (n (n - 1)) over the groups' sizes s.
    """
    n, sizes = len(groups), np.bincount(groups).astype(np.float64)
    chance = float((sizes * (sizes - 1)).sum()) / (float(n) * (n - 1))
    whole = n // batch
    keys = np.arange(whole * batch) // batch * (int(groups.max()) + 1) + groups[: whole * batch]
    counts = np.unique(keys, return_counts=True)[1]
    return _deviation(float((counts * (counts - 1) // 2).sum()), whole * math.comb(batch, 2), chance)


def close(rows: np.ndarray, batch: int) -> float:
    """How much more often than by chance two samples of a batch stand at most `NEAR` rows from each other."""
    n, whole = len(rows), len(rows) // batch
    ordered = np.sort(rows[: whole * batch].reshape(whole, batch), axis=1)
    found = sum(int((ordered[:, lag:] - ordered[:, :-lag] <= NEAR).sum()) for lag in range(1, min(NEAR + 1, batch)))
    chance = sum(2.0 * (n - d) for d in range(1, NEAR + 1)) / (float(n) * (n - 1))
    return _deviation(float(found), whole * math.comb(batch, 2), chance)


def _deviation(found: float, pairs: int, chance: float) -> float:
    """Pairs of a batch are all but independent of each other, so their number has nearly the binomial's variance."""
    return (found - pairs * chance) / math.sqrt(max(pairs * chance * (1 - chance), 1e-9))
