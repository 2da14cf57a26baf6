"""Recovery and its bootstrap intervals, against hand-computed and theoretical values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from manta.evaluate import recovery


def test_recovery_is_100_for_the_base_itself_and_falls_with_loss() -> None:
    assert recovery.perplexity_recovery(20.0, 20.0) == 100.0
    assert recovery.perplexity_recovery(25.0, 20.0) == pytest.approx(80.0)
    assert recovery.score_recovery(30.0, 40.0) == pytest.approx(75.0)
    assert recovery.score_recovery(30.0, 0.0) is None


def test_interval_of_a_mean_is_the_one_of_theory() -> None:
    """The middle 95% of a mean of n draws are about 2 x 1.96 s / sqrt(n) wide."""
    each = np.random.default_rng(1).normal(50, 10, size=400)
    low, high = recovery.score_interval([(points / 100, 1.0) for points in each], seed=0) or (0.0, 0.0)
    assert low < each.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * each.std() / math.sqrt(400), rel=0.15)


def test_intervals_repeat_for_a_seed_and_differ_between_seeds() -> None:
    each = [(points, 1.0) for points in (1.0, 5.0, 2.0, 8.0, 3.0)]
    assert recovery.score_interval(each, seed=3) == recovery.score_interval(each, seed=3)
    assert recovery.score_interval(each, seed=3) != recovery.score_interval(each, seed=4)


def test_models_are_resampled_together() -> None:
    """A loss that is the same on every row leaves no doubt, however much the rows themselves differ."""
    base, tokens = [10.0, 90.0, 45.0, 300.0], [10, 10, 10, 10]
    nll = [value + 10 * math.log(2) for value in base]
    low, high = recovery.perplexity_recovery_interval(nll, base, tokens, seed=0) or (0.0, 0.0)
    assert low == pytest.approx(50.0)
    assert high == pytest.approx(50.0)
    wide_low, wide_high = recovery.perplexity_interval(nll, tokens, seed=0) or (0.0, 0.0)
    assert wide_high > 10 * wide_low


def test_interval_weighs_rows_by_their_tokens() -> None:
    """Of two rows, drawn with repetition, the extreme draws are each row twice: perplexities 2 and 8."""
    low, high = recovery.perplexity_interval([1 * math.log(2), 3 * math.log(8)], [1, 3], seed=0) or (0.0, 0.0)
    assert low == pytest.approx(2.0)
    assert high == pytest.approx(8.0)


def test_a_base_without_a_point_has_no_interval() -> None:
    assert recovery.score_recovery_interval([(1.0, 1.0), (0.5, 1.0)], [(0.0, 1.0), (0.0, 1.0)], seed=0) is None


def test_a_quotient_of_sums_weighs_examples_by_their_denominators() -> None:
    """Of two examples, 1 of 1 and 1 of 3, the extreme draws are each of them twice."""
    assert recovery.score_interval([(1.0, 1.0), (1.0, 3.0)], seed=0) == (pytest.approx(100 / 3), pytest.approx(100))
    kept = recovery.score_recovery_interval([(1.0, 1.0), (1.0, 4.0)], [(1.0, 1.0), (2.0, 4.0)], seed=0)
    assert kept == (pytest.approx(50), pytest.approx(100))


def test_drift_shows_what_perplexity_hides() -> None:
    """One token likelier and one less likely by the same factor: the same perplexity, and a model that believes other things."""
    base, model = [[-1.0, -3.0], [-2.0]], [[-2.0, -2.0], [-2.0]]
    rows = recovery.drift_rows(model, base)
    assert rows == [(2.0, 2), (0.0, 1)]
    assert recovery.drift(rows) == pytest.approx(2 / 3)
    assert recovery.drift_interval(rows, seed=0) == (pytest.approx(0.0), pytest.approx(1.0))
    assert recovery.drift(recovery.drift_rows(base, base)) == 0.0


def test_relative_gap() -> None:
    assert recovery.relative_gap(11.0, 10.0) == pytest.approx(0.1)
    assert recovery.relative_gap(math.inf, 10.0) == math.inf
    assert recovery.relative_gap(10.0, math.nan) == math.inf
