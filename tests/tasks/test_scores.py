"""Scores against values worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.tasks import TASKS
from manta.tasks.scoring.scores import exact_match, longest_common_subsequence, rouge_l, rouge_n, token_f1


def test_longest_common_subsequence_keeps_order() -> None:
    assert longest_common_subsequence(["police", "killed", "the", "gunman"], ["police", "kill", "the", "gunman"]) == 3
    assert longest_common_subsequence(["police", "killed", "the", "gunman"], ["the", "gunman", "kill", "police"]) == 2


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence() -> None:
    # L = 3 ("return the list"), precision 3/4, recall 3/5, F1 = 2 * .75 * .6 / 1.35
    assert rouge_l("Return the whole list.", "Return only the sorted list") == pytest.approx(2 * 0.75 * 0.6 / 1.35)


def test_rouge_n_counts_runs_of_words() -> None:
    # Bigrams in common of 5 and of 4: (the, cat), (on, the)
    assert rouge_n("the cat sat on the mat", "the cat is on the", 2) == pytest.approx(2 * 2 / (5 + 4))
    # Words in common of 6 and of 5: the, the, cat, on
    assert rouge_n("the cat sat on the mat", "The cat is on the!", 1) == pytest.approx(2 * 4 / (6 + 5))
    assert rouge_n("a b", "b a", 2) == 0.0


def test_rouge_n_of_texts_too_short_for_it() -> None:
    assert rouge_n("yes", "Yes.", 2) == 1.0
    assert rouge_n("yes", "no", 2) == 0.0
    assert rouge_n("yes", "yes it is", 2) == 0.0


def test_token_f1_counts_repeats_and_ignores_order() -> None:
    # in common: a, a, b = 3 of 4 guessed and 5 wanted
    assert token_f1("b a a c", "a b a a d") == pytest.approx(2 * 3 / 9)
    assert token_f1("list the", "The list!") == 1.0
    assert rouge_l("list the", "The list!") == 0.5


def test_scores_of_nothing() -> None:
    assert rouge_l("", "") == 1.0
    assert rouge_l("", "word") == 0.0
    assert exact_match("A b.", "a B") == 1.0
    assert exact_match("a b", "b a") == 0.0


@given(st.text(), st.text())
def test_scores_stay_within_bounds_and_agree(guess: str, wanted: str) -> None:
    assert 0 <= rouge_l(guess, wanted) <= token_f1(guess, wanted) <= 1
    assert rouge_l(wanted, wanted) == 1


def test_summarisation_averages_in_per_cent() -> None:
    scores = TASKS["summarisation"].score(["return the list", "no"], ["return the list", "yes"])
    assert scores == dict.fromkeys(("score", "rouge_1", "rouge_2", "token_f1", "exact_match"), 50.0)
    [other] = [TASKS["summarisation"].score(["a b c d"], ["a b d c"])]  # of four words all; of three pairs one
    assert other["rouge_1"] == 100.0 and other["rouge_2"] == pytest.approx(100 / 3) and other["score"] == 75.0


def test_chat_score_is_chrf() -> None:
    score = TASKS["chat"].score
    assert score(["the cat sat"], ["the cat sat"])["score"] == pytest.approx(100)
    # Unigrams to trigrams of "abc" against "abd": F2 of 2/3, 1/2, 0/1 each, averaged over the orders that exist
    assert score(["abc"], ["abd"])["score"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3, abs=0.01)
