"""Do two engines read the same files alike? The distance of what they believe, and how much of it is explained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from manta.evaluate import recovery
from manta.evaluate.perplexity import perplexity

# Of right files the engines lie 0.2 to 1.5 times as far apart as compression moved the model, of wrong ones 4.7 times and
# more (tests/compress/test_wrong_files.py, and docs/compress.md for a model of 135M).
FACTOR = 3.0
LEAST = 0.01  # nats: below it lies rounding

Logs = Sequence[Sequence[float]]  # log-probabilities (nats), by row and token


def gaps(served: Logs, reference: Logs) -> dict[str, float]:
    """`engine_gap`, the relative difference of perplexity, and `token_gap`, the mean distance of a token's log-probability.

    The second also shows errors that raise as many tokens as they lower, so that perplexity stays where it was.
    """
    ours, theirs = ([log for row in side for log in row] for side in (served, reference))
    distance = recovery.drift(recovery.drift_rows(served, reference))
    told = [perplexity([-math.fsum(side)], [len(side)]) for side in (ours, theirs)]
    return {
        "engine_gap": recovery.relative_gap(*told),
        "token_gap": distance if math.isfinite(distance) else math.inf,
    }


def explained(model: Mapping[str, Any], base: Mapping[str, Any]) -> float | None:
    """The token_gap that a right file may have: FACTOR times what arithmetic does to the base, or compression to the model.

    Each side holds `token_gap` and, under `read`, what both engines said of the same rows. A compressed model rounds what
    it computes, so that engines part further than on the base, and about as far as the model parted from the base. Of two
    readings the one nearer to the base counts: where an engine reads a file wrongly, only its own is far. None where the
    engines were not compared on the same tokens.
    """
    if "read" not in model or "read" not in base:
        return None
    drifts = []
    for engine in ("served", "reference"):
        mine, theirs = model["read"][engine], base["read"][engine]
        if [len(row) for row in mine] != [len(row) for row in theirs]:
            return None  # questions that other templates wrote
        drifts.append(recovery.drift(recovery.drift_rows(mine, theirs)))
    return FACTOR * max(base["token_gap"], min(drifts), LEAST / FACTOR)
