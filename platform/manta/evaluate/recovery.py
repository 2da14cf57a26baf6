"""How much of the base a model has kept, in per cent, how sure that is, and whether it is enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from manta.sections.train import Gate

RESAMPLES = 1000
LEVEL = 0.95


def perplexity_recovery(perplexity: float, base: float) -> float:
    """100 * base / perplexity: 100 is as good as the base, less is worse."""
    return 100.0 * base / perplexity


def score_recovery(score: float, base: float) -> float | None:
    """100 * score / base; None where the base scores nothing, so that there is nothing to keep."""
    return None if base == 0 else 100.0 * score / base


def interval(
    statistic: Callable[[np.ndarray], np.ndarray], num_rows: int, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Percentile bootstrap (Efron 1979): where the middle 95% of `statistic` lie when the rows are drawn anew.

    `statistic` maps row numbers (resamples, rows) int64 to (resamples,) float64; both models are resampled together,
    since they judge the same rows. None if the statistic is nowhere finite.
    """
    import numpy as np

    drawn = np.random.default_rng(seed).integers(num_rows, size=(resamples, num_rows))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values = statistic(drawn)
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def perplexity_interval(nll: Sequence[float], tokens: Sequence[int], seed: int) -> tuple[float, float] | None:
    """Bootstrap interval of the perplexity over rows."""
    import numpy as np

    sums, lengths = np.asarray(nll), np.asarray(tokens)
    return interval(lambda drawn: np.exp(sums[drawn].sum(1) / lengths[drawn].sum(1)), len(sums), seed)


def perplexity_recovery_interval(
    nll: Sequence[float], base: Sequence[float], tokens: Sequence[int], seed: int
) -> tuple[float, float] | None:
    """Bootstrap interval of the perplexity recovery: rows in pairs."""
    import numpy as np

    lost, lengths = np.asarray(base) - np.asarray(nll), np.asarray(tokens)
    return interval(lambda drawn: 100 * np.exp(lost[drawn].sum(1) / lengths[drawn].sum(1)), len(lost), seed)


def score_interval(each: Sequence[float], seed: int) -> tuple[float, float] | None:
    """Bootstrap interval of the mean score of an answer."""
    import numpy as np

    scores = np.asarray(each)
    return interval(lambda drawn: scores[drawn].mean(1), len(scores), seed)


def score_recovery_interval(each: Sequence[float], base: Sequence[float], seed: int) -> tuple[float, float] | None:
    """Bootstrap interval of the recovery of the mean score of an answer: examples in pairs."""
    import numpy as np

    scores, bases = np.asarray(each), np.asarray(base)
    return interval(lambda drawn: 100 * scores[drawn].sum(1) / bases[drawn].sum(1), len(scores), seed)


def relative_gap(a: float, b: float) -> float:
    """|a - b| / b; infinite where either is not finite."""
    return abs(a - b) / b if math.isfinite(a) and math.isfinite(b) else math.inf


def missed(gate: Gate, figures: Mapping[str, Any]) -> list[str]:
    """What the gate demands and `figures` do not give, one sentence each; empty when the model passes.

    A figure that is None counts as missed: what could not be measured was not proved.
    """
    misses = []
    for name in ("perplexity_recovery", "score_recovery"):
        demanded, reached = getattr(gate, name), figures.get(name)
        if demanded is None:
            continue
        if reached is None:
            misses.append(f"{name} could not be measured (the base scores 0); the gate demands {demanded:g}%")
        elif not reached >= demanded:
            misses.append(f"{name} is {reached:.2f}%, the gate demands {demanded:g}%")
    for name in ("engine_gap", "base_engine_gap"):
        gap = figures.get(name)
        if gate.engine_gap is not None and gap is not None and not gap <= gate.engine_gap:
            which = "the base" if name.startswith("base") else "this model"
            misses.append(
                f"vllm and transformers disagree on {which}: perplexity differs by {gap:.1%}, gate.engine_gap allows {gate.engine_gap:.1%} "
                "(its files are wrong, or one engine reads them wrongly)"
            )
    return misses
