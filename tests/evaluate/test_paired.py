"""Two models compared: p-values by hand, against scipy, and as often below 0.05 as chance allows where nothing differs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from manta.evaluate import paired
from manta.evaluate.paired import compare, ratio


def scores(values: list[float] | np.ndarray) -> np.ndarray:
    column = np.asarray(values, dtype=float)
    return np.stack([column, np.ones_like(column)], axis=1)


def f1(sums: np.ndarray) -> np.ndarray:
    return 2 * sums[:, 0] / (sums[:, 1] + sums[:, 2])


def test_sign_flips_by_hand() -> None:
    """Three examples that B does better by 1, 2, 3 of six: of eight sign patterns only two reach a sum of 6 either way."""
    found = compare(scores([0, 0, 0, 5, 5, 5]), scores([1, 2, 3, 5, 5, 5]), ratio, seed=0)
    assert found is not None
    assert found.difference == pytest.approx(1.0)
    assert found.p_swap == pytest.approx(2 / 8)
    assert found.exact


def test_scipy_agrees_on_all_sign_flips() -> None:
    random = np.random.default_rng(4)
    a, b = random.normal(size=12), random.normal(0.5, size=12)
    found = compare(scores(a), scores(b), ratio, seed=0)
    theirs = stats.permutation_test((b - a,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert found is not None
    assert found.exact
    assert found.p_swap == pytest.approx(theirs.pvalue)


def test_random_swaps_come_near_the_exact_p(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    a, b = scores(random.normal(size=12)), scores(random.normal(0.5, size=12))
    exact = compare(a, b, ratio, seed=0)
    monkeypatch.setattr(paired, "EXACT", 0)
    drawn = compare(a, b, ratio, seed=0)
    assert exact and drawn
    assert not drawn.exact
    assert drawn.p_swap == pytest.approx(exact.p_swap, abs=0.02)  # standard error below 0.005


def test_swaps_of_a_corpus_figure_by_hand() -> None:
    """F1 from (right, guessed, wanted): the two models differ on two examples, so four swaps are all there are."""
    a = np.array([[1, 1, 1], [0, 2, 1], [1, 1, 2]], dtype=float)
    b = np.array([[1, 1, 1], [1, 1, 1], [2, 2, 2]], dtype=float)
    found = compare(a, b, f1, seed=0)
    # as seen: B 8/8, A 4/8. One swap: B with (0,2,1) 6/9 against A 6/7; B with (1,1,2) 6/7 against A 6/9.
    assert found is not None
    assert found.difference == pytest.approx(0.5)
    assert found.p_swap == pytest.approx(2 / 4)  # nothing swapped, everything swapped


def test_models_are_drawn_together() -> None:
    """A gain that is the same on every example leaves no doubt, however much the examples themselves differ."""
    a = np.array([0.0, 50.0, 100.0, 7.0, 80.0] * 4)
    found = compare(scores(a), scores(a + 1), ratio, seed=0)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((1.0, 1.0))
    assert found.p_bootstrap == pytest.approx(2 / 2001)
    assert not found.exact
    assert found.p_swap < 0.001


def test_the_same_answers_are_no_difference() -> None:
    found = compare(scores([1, 0, 1]), scores([1, 0, 1]), ratio, seed=0)
    assert found == (0.0, 0.0, 0.0, 1.0, 1.0, True)


def test_exchanging_the_models_turns_the_difference_around() -> None:
    random = np.random.default_rng(2)
    a, b = scores(random.normal(size=40)), scores(random.normal(0.2, size=40))
    one, other = compare(a, b, ratio, seed=3), compare(b, a, ratio, seed=3)
    assert one and other
    assert other.difference == pytest.approx(-one.difference)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
    assert other.p_bootstrap == one.p_bootstrap


def test_a_figure_without_a_value_is_none() -> None:
    assert compare(np.zeros((2, 3)), np.zeros((2, 3)), f1, seed=0) is None


def test_rows_must_be_of_the_same_examples() -> None:
    with pytest.raises(ValueError, match="of the same examples"):
        compare(scores([1.0]), scores([1.0, 2.0]), ratio, seed=0)


def test_chance_is_called_a_difference_as_seldom_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 pairs of equally good models on 60 examples: p below 0.05 in about 5%, whichever test; a standard error is 1.3 points."""
    monkeypatch.setattr(paired, "SWAPS", 500)
    random = np.random.default_rng(21)
    called = np.zeros(2)
    for number in range(300):
        common = random.normal(size=60)
        a, b = (scores(common + random.normal(size=60)) for _ in range(2))
        found = compare(a, b, ratio, seed=number, resamples=500)
        assert found is not None
        called += [found.p_bootstrap < 0.05, found.p_swap < 0.05]
    assert called.min() / 300 >= 0.01
    assert called.max() / 300 <= 0.09
