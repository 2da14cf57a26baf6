"""BLEU and chrF: the sums of single texts give what sacrebleu says of the whole, and of any part of it."""

from __future__ import annotations

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from manta.tasks.scoring import ngrams

GUESS = ["the cat sat on the mat", "hello there , world!", "", "no", "ein Beispiel für Größe"]
TRUTH = ["the cat is on the mat today", "hello world!", "something", "yes", "ein Beispiel mit Größe"]


def test_the_whole_is_what_sacrebleu_says() -> None:
    assert ngrams.bleu(GUESS, TRUTH) == pytest.approx(BLEU().corpus_score(GUESS, [TRUTH]).score)
    assert ngrams.chrf(GUESS, TRUTH) == pytest.approx(CHRF().corpus_score(GUESS, [TRUTH]).score)


def test_any_draw_is_what_sacrebleu_says() -> None:
    bleu_rows, chrf_rows = ngrams.bleu_rows(GUESS, TRUTH), ngrams.chrf_rows(GUESS, TRUTH)
    drawn = np.random.default_rng(0).integers(len(GUESS), size=(30, len(GUESS)))
    bleu = ngrams.bleu_of(bleu_rows[drawn].sum(1))
    chrf = ngrams.chrf_of(chrf_rows[drawn].sum(1))
    for number, chosen in enumerate(drawn):
        guess, truth = [GUESS[i] for i in chosen], [TRUTH[i] for i in chosen]
        assert bleu[number] == pytest.approx(BLEU().corpus_score(guess, [truth]).score)
        assert chrf[number] == pytest.approx(CHRF().corpus_score(guess, [truth]).score)


def test_by_hand() -> None:
    # "abc" against "abd": orders 1 to 3 occur, with 2/3, 1/2 and 0 in common
    assert ngrams.chrf(["a bc"], ["ab d"]) == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)
    # five words, all of them, and 4, 3, 2 runs, all right; the reference is twice as long: brevity exp(1 - 10/5)
    assert ngrams.bleu(["a b c d e"], ["a b c d e f g h i j"]) == pytest.approx(100 * np.exp(-1))


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 predictions"):
        ngrams.bleu([], [])
    with pytest.raises(ValueError, match="1 predictions for 2"):
        ngrams.chrf(["a"], ["a", "b"])
