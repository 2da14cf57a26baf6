"""Bootstrap intervals against scipy, against what all resamples give, and against their nominal coverage."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from manta.evaluate import bootstrap
from manta.evaluate.bootstrap import Interval, Method, interval, mean, of_sums


def f1(sums: np.ndarray) -> np.ndarray:
    return 2 * sums[:, 0] / (sums[:, 1] + sums[:, 2])


def test_percentiles_are_those_of_every_possible_resample() -> None:
    """Of three examples there are 27 resamples; many random ones have their quantiles."""
    values = [0.0, 1.0, 5.0]
    every = sorted(sum(drawn) / 3 for drawn in product(values, repeat=3))
    found = interval(mean(values), 3, seed=0, level=0.6, resamples=50_000)
    assert found is not None
    assert found.estimate == pytest.approx(2.0)
    # quantiles 0.2 and 0.8 of 27: the steps of the distribution there are 1/27 each or wider, so sampling cannot miss them
    assert found.low == pytest.approx(np.quantile(every, 0.2, method="inverted_cdf"))
    assert found.high == pytest.approx(np.quantile(every, 0.8, method="inverted_cdf"))


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_scipy_agrees_on_a_skewed_mean(method: Method) -> None:
    values = np.random.default_rng(5).exponential(size=60)
    ours = interval(mean(values), len(values), seed=1, method=method, resamples=40_000)
    theirs = stats.bootstrap((values,), np.mean, method=method, n_resamples=40_000, rng=np.random.default_rng(2))
    assert ours is not None
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.02 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.02 * width)


def test_bca_differs_from_percentiles_where_the_figure_is_skewed() -> None:
    values = np.random.default_rng(5).exponential(size=60)
    plain = interval(mean(values), 60, seed=1)
    moved = interval(mean(values), 60, seed=1, method="bca")
    assert plain and moved
    assert moved.low > plain.low  # a long tail to the right moves both ends there
    assert moved.high > plain.high


def test_acceleration_by_hand() -> None:
    """For a mean it is the sample's skewness by 6 sqrt(n): of (0, 0, 0, 4), moments 3 and 6, 2/sqrt(3) by 12."""
    left_out = bootstrap.jackknife(mean([0.0, 0.0, 0.0, 4.0]), 4)
    assert left_out == pytest.approx([4 / 3, 4 / 3, 4 / 3, 0.0])
    assert bootstrap._acceleration(left_out) == pytest.approx((2 / math.sqrt(3)) / 12)


def test_groups_of_many_examples_give_the_same_acceleration() -> None:
    values = np.random.default_rng(3).exponential(size=20_000)
    skewness = stats.skew(values) / (6 * math.sqrt(20_000))
    assert bootstrap._acceleration(bootstrap.jackknife(mean(values), 20_000)) == pytest.approx(skewness, abs=1e-3)


def test_a_corpus_figure_is_not_the_mean_of_its_examples() -> None:
    rows = [(1, 1, 1), (0, 4, 4), (5, 5, 10)]  # right, guessed, wanted
    found = interval(of_sums(rows, f1), 3, seed=0)
    assert found is not None
    assert found.estimate == pytest.approx(2 * 6 / (10 + 15))
    assert found.low == 0.0  # the resample of the second example alone is one of 27
    assert found.high == pytest.approx(1.0)  # as is that of the first


def test_a_figure_of_indices_is_a_figure_of_counts() -> None:
    values = np.array([1.0, 2.0, 50.0])

    def median(times: np.ndarray) -> np.ndarray:
        return np.array([np.median(np.repeat(values, row.astype(int))) for row in times])

    assert interval(median, 3, seed=0) == Interval(2.0, 1.0, 50.0)


def test_blocks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bootstrap.replicates(mean([1.0, 2.0, 4.0]), 3, seed=7, resamples=101)
    monkeypatch.setattr(bootstrap, "ROOM", 30)
    assert np.array_equal(bootstrap.replicates(mean([1.0, 2.0, 4.0]), 3, seed=7, resamples=101), whole)
    assert not np.array_equal(bootstrap.replicates(mean([1.0, 2.0, 4.0]), 3, seed=8, resamples=101), whole)


def test_no_doubt_and_no_figure() -> None:
    for method in ("percentile", "bca"):
        assert interval(mean([3.0, 3.0]), 2, seed=0, method=method) == Interval(3.0, 3.0, 3.0)  # type: ignore[arg-type]
        assert interval(of_sums([(0, 0, 0)], f1), 1, seed=0, method=method) is None  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no examples"):
        interval(mean([]), 0, seed=0)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_intervals_hold_the_truth_as_often_as_they_say(method: Method) -> None:
    """400 samples of 80 answers that are right with probability 0.7: 95% intervals hold 0.7 in about 95% of them.

    The share of so many has a standard error of 1.1 points; at this size the intervals' own error is a point or two.
    """
    random = np.random.default_rng(11)
    held = 0
    for number in range(400):
        answers = (random.random(80) < 0.7).astype(float)
        found = interval(mean(answers), 80, seed=number, method=method, resamples=500)
        held += found is not None and found.low <= 0.7 <= found.high
    assert 0.91 <= held / 400 <= 0.98
