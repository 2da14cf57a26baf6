"""Two models on the same examples: how far apart a figure is, how sure that is, and whether chance alone would do it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from manta.evaluate import bootstrap
from manta.evaluate.bootstrap import LEVEL, RESAMPLES, Formula

if TYPE_CHECKING:
    import numpy as np

SWAPS = 10_000  # random swaps, where there are too many to try them all
EXACT = 13  # examples that differ: up to so many, all 2^13 swaps are tried


class Paired(NamedTuple):
    """B against A. `difference` is B's figure less A's; `low` and `high` hold it with the stated confidence.

    `p_bootstrap` and `p_swap` are two-sided; `exact` says that the latter tried every swap.
    """

    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_swap: float
    exact: bool


def compare(
    a: np.ndarray, b: np.ndarray, formula: Formula, seed: int, level: float = LEVEL, resamples: int = RESAMPLES
) -> Paired | None:
    """Compare two models by the figure that `formula` makes of sums over examples.

    `a` and `b` (examples, columns) float64 hold the models' summands, row by row of the same examples; one column of scores and
    one of ones, with `formula=ratio`, compare means. None where a figure, or all of the resampled ones, is not finite.

    The paired bootstrap (Koehn 2004, "Statistical significance tests for machine translation evaluation") draws examples anew,
    the same for both models: the interval is the middle `level` of the differences, and p is twice the share of resamples, plus
    one, in which the other model is at least as good. The swap test (Fisher 1935; Noreen 1989: approximate randomisation) takes
    the two answers to each example for interchangeable and exchanges them or not: p is the share of exchanges whose difference is
    at least as large as the one seen. For a mean this is the sign-flip test. Only examples on which the models differ matter.
    """
    import numpy as np

    if a.shape != b.shape or a.ndim != 2 or not len(a):
        raise ValueError(
            f"summands of shapes {a.shape} and {b.shape}: both need (examples, columns), of the same examples"
        )
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        seen = float((formula(b.sum(0)[None]) - formula(a.sum(0)[None]))[0])
        draws = bootstrap.draws(len(a), seed, resamples)
        values = np.concatenate([formula(times @ b) - formula(times @ a) for times in draws])
        values = values[np.isfinite(values)]
        if not values.size or not np.isfinite(seen):
            return None
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        p_swap, exact = _swap_test(a, b, formula, seen, seed)
    other = min(np.sum(values <= 0), np.sum(values >= 0))
    p_bootstrap = min(1.0, 2 * (float(other) + 1) / (len(values) + 1))
    return Paired(seen, float(low), float(high), p_bootstrap, p_swap, exact)


def ratio(sums: np.ndarray) -> np.ndarray:
    """The first column by the second: the mean, where the second counts examples. (draws, 2) -> (draws,)."""
    return sums[:, 0] / sums[:, 1]


def _swap_test(a: np.ndarray, b: np.ndarray, formula: Formula, seen: float, seed: int) -> tuple[float, bool]:
    import numpy as np

    apart = (a != b).any(1)
    gain = (b - a)[apart]  # what B's sums lose, and A's gain, by a swap
    num = len(gain)
    exact = num <= EXACT
    # What rounding alone can do to a difference must not make it smaller than itself.
    threshold = abs(seen) * (1 - 1e-9) - 1e-12
    found = tried = 0
    random = np.random.default_rng(seed)
    first = 0
    for block in bootstrap.blocks(1 << num if exact else SWAPS, max(1, num)):
        if exact:
            swaps = ((np.arange(first, first + block)[:, None] >> np.arange(num)) & 1).astype(np.float64)
        else:
            swaps = random.integers(2, size=(block, num)).astype(np.float64)
        moved = swaps @ gain
        differences = formula(b.sum(0) - moved) - formula(a.sum(0) + moved)
        differences = differences[np.isfinite(differences)]
        found += int(np.sum(np.abs(differences) >= threshold))
        tried += len(differences)
        first += block
    # Of random swaps, the one that was seen counts among those tried, so that p is never 0 (Phipson and Smyth 2010).
    return (found / tried, True) if exact else ((found + 1) / (tried + 1), False)
