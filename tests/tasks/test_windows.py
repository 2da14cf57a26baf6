"""Windows by hand and against brute force: where an answer lies in them, which answer is best, when there is none."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta.tasks.encoding.windows import Best, Found, best, best_span, grouped, place

#               [CLS] who [SEP]  in Oslo   .  [SEP]
BEGINS, ENDS = [-1, -1, -1, 10, 13, 17, -1], [-1, -1, -1, 12, 17, 18, -1]


@pytest.mark.parametrize(
    ("span", "wanted"),
    [
        ((13, 17), (4, 4)),
        ((10, 17), (3, 4)),
        ((14, 18), (4, 5)),  # begins within a token, which belongs to it
        ((9, 12), None),  # begins before the window
        ((13, 19), None),  # ends behind it
        ((12, 13), None),  # the blank between two tokens
    ],
)
def test_tokens_of_an_answer(span: tuple[int, int], wanted: tuple[int, int] | None) -> None:
    assert place(BEGINS, ENDS, *span) == wanted


def test_a_window_without_context_holds_nothing() -> None:
    assert place([-1, -1], [-1, -1], 0, 3) is None


@given(
    st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 14),
)
def test_the_best_span_against_trying_all(rows: list[tuple[int, int, bool]], longest: int) -> None:
    starts, ends = (np.array([row[side] for row in rows], dtype=np.float32) for side in (0, 1))
    inside = [row[2] for row in rows]
    tried = {
        (i, j): float(starts[i] + ends[j])
        for i, j in itertools.product(range(len(rows)), repeat=2)
        if i <= j < i + longest and inside[i] and inside[j]
    }
    first, last, score, weight = best_span(starts, ends, np.array(inside), longest)
    if not tried:
        assert score == weight == -math.inf
        return
    assert score == max(tried.values()) == tried[first, last]
    assert (first, last) == min(span for span, value in tried.items() if value == score)
    assert weight == pytest.approx(math.log(sum(math.exp(value) for value in tried.values())))


def found(window: int, score: float, none: float, start: int = 0) -> Found:
    return Found(window, start, start + 4, score, none, math.log(2 * math.exp(score)))  # two answers score alike


def test_the_best_of_all_windows_counts_whatever_they_say_of_none() -> None:
    windows = [found(0, 1.0, 9.0), found(1, 3.0, 5.0, 20), found(2, 3.0, 7.0, 40)]
    total = 2 * (math.exp(1) + math.exp(3) + math.exp(3))
    found_span, probability = best(windows, None)
    assert found_span == (20, 24) and probability == pytest.approx(math.exp(3) / total)


@pytest.mark.parametrize(
    ("threshold", "answered"), [(0.0, False), (1.9, False), (2.0, True), (-3.0, False), (9.0, True)]
)
def test_none_is_said_where_its_least_score_lies_above_the_threshold(threshold: float, answered: bool) -> None:
    windows = [found(0, 1.0, 9.0), found(1, 3.0, 5.0, 20)]
    total = 2 * (math.exp(1) + math.exp(3)) + math.exp(5)  # the least of 9 and 5
    wanted = Best((20, 24), math.exp(3) / total) if answered else Best(None, math.exp(5) / total)
    found_span, probability = best(windows, threshold)
    assert found_span == wanted.span and probability == pytest.approx(wanted.probability)


def test_where_no_window_has_any_of_the_context_nothing_is_answered() -> None:
    assert best([Found(0, -1, -1, -math.inf, 2.0, -math.inf)], None) == Best(None, 1.0)
    assert best([Found(0, -1, -1, -math.inf, 2.0, -math.inf)], 0.0) == Best(None, 1.0)


def test_a_question_begins_at_its_window_0() -> None:
    windows = [found(number, 0.0, 0.0) for number in (0, 1, 0, 0, 1, 2)]
    assert [[window.window for window in group] for group in grouped(windows)] == [[0, 1], [0], [0, 1, 2]]
    assert list(grouped([])) == []
