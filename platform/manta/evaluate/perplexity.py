"""Perplexity from the log-likelihoods of rows: aggregation only, no model."""

from __future__ import annotations

import math
from collections.abc import Sequence


def perplexity(nll: Sequence[float], tokens: Sequence[int]) -> float:
    """exp of the mean negative log-likelihood of a token.

    `nll` holds, for each row, the sum over its predicted tokens of -ln p(token | tokens before it in the row), `tokens`
    how many those are (a row's first token is given, not predicted). Raises ValueError when nothing was predicted.
    """
    if len(nll) != len(tokens):
        raise ValueError(f"{len(nll)} rows have a likelihood, {len(tokens)} a length")
    predicted = sum(tokens)
    if predicted <= 0:
        raise ValueError("no token was predicted: rows need at least two")
    mean = math.fsum(nll) / predicted
    # A model that is certain of the wrong tokens overflows a float; infinity says so.
    return math.exp(mean) if mean < 700 else math.inf
