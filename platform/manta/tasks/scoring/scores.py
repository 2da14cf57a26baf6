"""Measures of how alike two texts are, as pure functions: each takes prediction and reference, each gives 0 to 1."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence


def words(text: str) -> list[str]:
    """Lower-cased runs of letters and digits of any script."""
    return re.findall(r"[^\W_]+", text.lower())


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L F1 (Lin 2004): with L the longest common subsequence of words, P = L/|prediction|, R = L/|reference|,
    F1 = 2PR/(P + R)."""
    guess, wanted = words(prediction), words(reference)
    return _f1(longest_common_subsequence(guess, wanted), len(guess), len(wanted))


def rouge_n(prediction: str, reference: str, n: int) -> float:
    """ROUGE-N F1 (Lin 2004): runs of n words held in common, repeats counted, by 2PR/(P + R).

    Where neither text has n words there is nothing to count: 1 if they are the same words, else 0.
    """
    guess, wanted = words(prediction), words(reference)
    guessed, true = _runs(guess, n), _runs(wanted, n)
    if not guessed and not true:
        return float(guess == wanted)
    return _f1(sum((guessed & true).values()), sum(guessed.values()), sum(true.values()))


def token_f1(prediction: str, reference: str) -> float:
    """F1 of the words held in common, order aside, repeats counted (Rajpurkar et al. 2016, arXiv:1606.05250)."""
    guess, wanted = words(prediction), words(reference)
    return _f1(sum((Counter(guess) & Counter(wanted)).values()), len(guess), len(wanted))


def exact_match(prediction: str, reference: str) -> float:
    """1 if the words are the same, in the same order."""
    return float(words(prediction) == words(reference))


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean; 0 of nothing."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


def longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest sequence that both hold in order, not necessarily side by side. O(|a| |b|) time."""
    row = [0] * (len(b) + 1)
    for left in a:
        diagonal = 0
        for column, right in enumerate(b, 1):
            above = row[column]
            row[column] = diagonal + 1 if left == right else max(above, row[column - 1])
            diagonal = above
    return row[-1]


def _runs(listed: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(listed[first : first + n]) for first in range(len(listed) - n + 1))


def _f1(common: int, guessed: int, wanted: int) -> float:
    """2PR/(P + R) with P = common/guessed and R = common/wanted, which is 2 common/(guessed + wanted)."""
    if guessed + wanted == 0:
        return 1.0
    return 2 * common / (guessed + wanted)
