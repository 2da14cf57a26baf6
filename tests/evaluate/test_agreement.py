"""Two engines and one file: how far apart they are, and how much of it precision and compression explain, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from manta.evaluate import agreement


def test_a_distance_that_cancels_is_seen_token_by_token() -> None:
    found = agreement.gaps([[-1.0, -3.0], [-2.0]], [[-2.0, -2.0], [-2.0]])
    assert found["engine_gap"] == pytest.approx(0.0)
    assert found["token_gap"] == pytest.approx(2 / 3)


def test_perplexities_that_differ_and_what_is_no_number() -> None:
    found = agreement.gaps([[-math.log(4.0)]], [[-math.log(2.0)]])
    assert found == pytest.approx({"engine_gap": 1.0, "token_gap": math.log(2.0)})
    assert agreement.gaps([[math.nan]], [[-1.0]]) == {"engine_gap": math.inf, "token_gap": math.inf}


def side(served: float, reference: float) -> dict[str, Any]:
    """An engine each that finds a single token so likely."""
    read = {"served": [[served]], "reference": [[reference]]}
    return {**agreement.gaps(**read), "read": read}


def test_compression_explains_three_times_what_it_moved() -> None:
    base = side(-2.0, -2.01)
    assert agreement.explained(side(-2.1, -2.2), base) == pytest.approx(3 * 0.1), "of two readings the nearer one"
    assert agreement.explained(side(-9.0, -2.2), base) == pytest.approx(3 * 0.19), "one engine reads it wrongly"
    assert agreement.explained(side(-2.001, -2.011), base) == pytest.approx(3 * 0.01), "what the base shows"
    assert agreement.explained(side(-2.0, -2.0), side(-2.0, -2.0)) == agreement.LEAST


def test_what_was_not_compared_explains_nothing() -> None:
    base = side(-2.0, -2.0)
    assert agreement.explained({"engine_gap": None}, base) is None
    other = {**base, "read": {"served": [[-1.0, -1.0]], "reference": [[-1.0, -1.0]]}}
    assert agreement.explained(other, base) is None, "questions that another template wrote"
