"""Perplexity against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from manta.evaluate.perplexity import perplexity


def test_uniform_guesses_give_the_number_of_choices() -> None:
    assert perplexity([3 * math.log(7), 5 * math.log(7)], [3, 5]) == pytest.approx(7.0)


def test_tokens_count_alike_not_rows() -> None:
    # One token of probability 1/2 and three of probability 1/8: the mean of -ln p is (ln 2 + 3 ln 8) / 4 = 2.5 ln 2.
    assert perplexity([math.log(2), 3 * math.log(8)], [1, 3]) == pytest.approx(2**2.5)


def test_certainty_of_the_wrong_token_is_infinite_not_an_error() -> None:
    assert perplexity([1e6], [2]) == math.inf


@pytest.mark.parametrize(("nll", "tokens"), [([], []), ([0.0], [0]), ([1.0, 2.0], [3])])
def test_nothing_predicted_is_an_error(nll: list[float], tokens: list[int]) -> None:
    with pytest.raises(ValueError):
        perplexity(nll, tokens)
