"""How sure a figure is: bootstrap intervals, percentile and BCa, of means and of figures made from sums over examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
ROOM = 1 << 22  # numbers of one block of resamples: 32 MiB
GROUPS = 1000  # the jackknife leaves out single examples up to this many, groups of them beyond

Method = Literal["percentile", "bca"]
# A figure of a set of examples in which some stand several times: how often each one stands, (draws, examples) float64, to the
# figure of each draw, (draws,) float64. A figure of indices is one of `np.repeat(np.arange(n), times)`.
Statistic = Callable[["np.ndarray"], "np.ndarray"]
# A figure made of sums over examples: (draws, columns) float64 -> (draws,) float64. It must not see whether all were doubled.
Formula = Callable[["np.ndarray"], "np.ndarray"]


class Interval(NamedTuple):
    """A figure and the ends of the interval in which it lies with the stated confidence, in the figure's unit."""

    estimate: float
    low: float
    high: float


def mean(values: Sequence[float] | np.ndarray) -> Statistic:
    """The mean of one value an example."""
    import numpy as np

    column = np.asarray(values, dtype=np.float64)
    return lambda times: (times @ column) / times.sum(1)


def of_sums(rows: Sequence[Sequence[float]] | np.ndarray, formula: Formula) -> Statistic:
    """The figure that `formula` makes of the column sums of `rows` (examples, columns).

    Corpus figures are of this shape: F1 from numbers of hits, BLEU from numbers of n-grams, perplexity from likelihoods and lengths.
    """
    import numpy as np

    table = np.asarray(rows, dtype=np.float64)
    return lambda times: formula(times @ table)


def interval(
    statistic: Statistic,
    num_examples: int,
    seed: int,
    *,
    method: Method = "percentile",
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """The bootstrap interval of a figure: examples are drawn anew with repetition, as many as there are.

    "percentile" takes the quantiles (1 - level)/2 and (1 + level)/2 of the resampled figures (Efron and Tibshirani 1993,
    chapter 13). "bca" moves both quantiles for bias and skew (Efron 1987; chapter 14 there): with z0 the normal quantile of the
    share of resampled figures below the estimate, half of the ties counted, and a from the jackknife values t_i,
    a = sum((mean t - t_i)^3) / (6 sum((mean t - t_i)^2)^(3/2)), a normal quantile z becomes z0 + (z0 + z) / (1 - a (z0 + z)).
    None where the figure, or every resampled one, is not finite. Raises ValueError without examples.
    """
    import numpy as np

    if num_examples < 1:
        raise ValueError("no examples, so no interval")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        estimate = float(statistic(np.ones((1, num_examples)))[0])
        values = replicates(statistic, num_examples, seed, resamples)
        values = values[np.isfinite(values)]
        if not values.size or not np.isfinite(estimate):
            return None
        shares = [(1 - level) / 2, (1 + level) / 2]
        if method == "bca":
            shares = _moved(shares, values, estimate, jackknife(statistic, num_examples))
    low, high = np.quantile(values, shares)
    return Interval(estimate, float(low), float(high))


def replicates(statistic: Statistic, num_examples: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """The figure of each resample, (resamples,) float64; a pure function of the seed."""
    import numpy as np

    return np.concatenate([statistic(times) for times in draws(num_examples, seed, resamples)])


def draws(num_examples: int, seed: int, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """How often each example was drawn in each resample, in blocks (some, examples) float64."""
    import numpy as np

    random = np.random.default_rng(seed)
    for block in blocks(resamples, num_examples):
        drawn = random.integers(num_examples, size=(block, num_examples))
        drawn += np.arange(block)[:, None] * num_examples
        counted = np.bincount(drawn.ravel(), minlength=block * num_examples)
        yield counted.reshape(block, num_examples).astype(np.float64)


def jackknife(statistic: Statistic, num_examples: int) -> np.ndarray:
    """The figure without each example, or, of many examples, without each of 1,000 groups of neighbours, (groups,) float64."""
    import numpy as np

    groups = min(num_examples, GROUPS)
    group_of = np.arange(num_examples) * groups // num_examples
    found, first = [], 0
    for block in blocks(groups, num_examples):
        left_out = np.arange(first, first + block)
        found.append(statistic((group_of[None, :] != left_out[:, None]).astype(np.float64)))
        first += block
    return np.concatenate(found)


def blocks(rows: int, width: int) -> Iterator[int]:
    """Sizes that add up to `rows`, each as many rows of that width as there is room for."""
    size = max(1, ROOM // width)
    while rows > 0:
        yield min(size, rows)
        rows -= size


def _moved(shares: Sequence[float], values: np.ndarray, estimate: float, left_out: np.ndarray) -> list[float]:
    """The shares of BCa. Where one side of the estimate holds no value, it is taken to hold half of one."""
    import numpy as np

    normal = NormalDist()
    below = (np.sum(values < estimate) + np.sum(values <= estimate)) / (2 * len(values))
    margin = 0.5 / len(values)
    bias = normal.inv_cdf(float(np.clip(below, margin, 1 - margin)))
    acceleration = _acceleration(left_out[np.isfinite(left_out)])

    def move(share: float) -> float:
        z = bias + normal.inv_cdf(share)
        return normal.cdf(bias + z / (1 - acceleration * z))

    return [move(share) for share in shares]


def _acceleration(left_out: Any) -> float:
    """A sixth of the skewness of the jackknife values, over the root of their number; 0 where they are all the same."""
    import numpy as np

    if not left_out.size:
        return 0.0
    apart = left_out.mean() - left_out
    spread = float(np.sum(apart**2))
    return float(np.sum(apart**3)) / (6 * spread**1.5) if spread > 0 else 0.0
