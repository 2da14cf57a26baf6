"""How much of the base a model has kept, in per cent, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from manta.evaluate import bootstrap
from manta.evaluate.bootstrap import Formula

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 1000
LEVEL = 0.95

Shares = Sequence[tuple[float, float]]  # (numerator, denominator) of each answer


def perplexity_recovery(perplexity: float, base: float) -> float:
    """100 * base / perplexity: 100 is as good as the base, less is worse."""
    return 100.0 * base / perplexity


def score_recovery(score: float, base: float) -> float | None:
    """100 * score / base; None where the base scores nothing, so that there is nothing to keep."""
    return None if base == 0 else 100.0 * score / base


def interval(rows: np.ndarray, formula: Formula, seed: int) -> tuple[float, float] | None:
    """Percentile bootstrap: where the middle 95% of a figure lie when the rows are drawn anew, see `manta.evaluate.bootstrap`.

    `rows` (examples, columns) hold the summands that `formula` makes the figure of; those of both models where it is of
    both, so that they are resampled together: they judge the same rows. None if the figure is not finite.
    """
    statistic = bootstrap.of_sums(rows, formula)
    found = bootstrap.interval(statistic, len(rows), seed, level=LEVEL, resamples=RESAMPLES)
    return (found.low, found.high) if found else None


def perplexity_interval(nll: Sequence[float], tokens: Sequence[int], seed: int) -> tuple[float, float] | None:
    """Bootstrap interval of the perplexity over rows."""
    import numpy as np

    return interval(np.stack([nll, tokens], axis=1), lambda sums: np.exp(sums[:, 0] / sums[:, 1]), seed)


def perplexity_recovery_interval(
    nll: Sequence[float], base: Sequence[float], tokens: Sequence[int], seed: int
) -> tuple[float, float] | None:
    """Bootstrap interval of the perplexity recovery: rows in pairs."""
    import numpy as np

    lost = np.asarray(base) - np.asarray(nll)
    return interval(np.stack([lost, tokens], axis=1), lambda sums: 100 * np.exp(sums[:, 0] / sums[:, 1]), seed)


def drift_rows(logs: Sequence[Sequence[float]], base: Sequence[Sequence[float]]) -> list[tuple[float, int]]:
    """Of each row how far its tokens' log-probabilities (nats) lie from the base's in sum, and how many they are.

    A change that raises as many tokens as it lowers leaves perplexity where it was; the distance shows it.
    """
    return [
        (math.fsum(abs(one - other) for one, other in zip(mine, theirs, strict=True)), len(mine))
        for mine, theirs in zip(logs, base, strict=True)
    ]


def drift(rows: Sequence[tuple[float, int]]) -> float:
    """The mean distance of a token's log-probability from the base's, in nats; 0 for the base itself."""
    return math.fsum(row[0] for row in rows) / sum(row[1] for row in rows)


def drift_interval(rows: Sequence[tuple[float, int]], seed: int) -> tuple[float, float] | None:
    """Bootstrap interval of the drift over rows."""
    import numpy as np

    return interval(np.asarray(rows, dtype=float), lambda sums: sums[:, 0] / sums[:, 1], seed)


def score_interval(shares: Shares, seed: int) -> tuple[float, float] | None:
    """Bootstrap interval of a score in per cent, the quotient of the sums of (numerator, denominator) of its answers."""
    import numpy as np

    return interval(np.asarray(shares, dtype=float), lambda sums: 100 * sums[:, 0] / sums[:, 1], seed)


def score_recovery_interval(shares: Shares, base: Shares, seed: int) -> tuple[float, float] | None:
    """Bootstrap interval of the recovery of a score: examples in pairs."""
    import numpy as np

    both = np.concatenate([np.asarray(shares, dtype=float), np.asarray(base, dtype=float)], axis=1)
    return interval(both, lambda sums: 100 * (sums[:, 0] / sums[:, 1]) / (sums[:, 2] / sums[:, 3]), seed)


def relative_gap(a: float, b: float) -> float:
    """|a - b| / b; infinite where either is not finite."""
    return abs(a - b) / b if math.isfinite(a) and math.isfinite(b) else math.inf
