"""Long contexts as windows that overlap: where an answer lies in each, and the best answer over all windows of a question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

OUTSIDE = -1  # the character of a token that is no part of the context


class Found(NamedTuple):
    """What a model says of one window: its best answer, that there is none, and how much all its answers weigh.

    `start` and `end` are characters of the context. `score` and `none` are sums of two logits, `weight` the logarithm
    of the sum of exp(score) over all answers that the window allows.
    """

    window: int  # its number among its question's windows, from 0
    start: int
    end: int
    score: float
    none: float
    weight: float


class Best(NamedTuple):
    """The answer to a question: characters of the context, None where there is none; and its probability."""

    span: tuple[int, int] | None
    probability: float


def place(begins: Sequence[int], ends: Sequence[int], start: int, end: int) -> tuple[int, int] | None:
    """The first and the last token of the characters [start, end), None where they do not all lie in the window.

    `begins` and `ends` are each token's characters, OUTSIDE for those that are no part of the context.
    """
    there = [token for token, begin in enumerate(begins) if begin != OUTSIDE]
    if not there or begins[there[0]] > start or ends[there[-1]] < end:
        return None
    touched = [token for token in there if begins[token] < end and ends[token] > start]
    return (touched[0], touched[-1]) if touched else None


def best_span(
    start_logits: np.ndarray, end_logits: np.ndarray, inside: np.ndarray, longest: int
) -> tuple[int, int, float, float]:
    """(first token, last token, score, weight) of the best span: the highest start_logits[i] + end_logits[j], i <= j < i + longest.

    All are (seq,), of which both ends must be `inside`; equal scores go to the first. `weight` is the logarithm of the
    sum of exp(score) over all spans that are allowed. Scores of a window without any are -inf.
    """
    import numpy as np

    longest = min(longest, len(inside))
    starts = np.where(inside, start_logits.astype(np.float64), -np.inf)
    ends = np.where(inside, end_logits.astype(np.float64), -np.inf)
    behind = np.concatenate([ends, np.full(longest - 1, -np.inf)])
    sums = starts[:, None] + np.lib.stride_tricks.sliding_window_view(behind, longest)  # (seq, longest)
    first, more = divmod(int(sums.argmax()), longest)
    score = float(sums[first, more])
    weight = score if score == -np.inf else score + float(np.log(np.exp(sums - score).sum()))
    return first, first + more, score, weight


def best(windows: Sequence[Found], threshold: float | None) -> Best:
    """The best answer of all windows of a question, or none.

    There is none where the score of that, the least of all windows, is above the best answer's by more than `threshold`
    (Devlin et al., arXiv:1810.04805, section 4.3); with a threshold of None every question has an answer. The
    probability is exp(score) over the sum of that of all answers, and of none where that may be said.
    """
    import numpy as np

    top = max(windows, key=lambda window: window.score)
    none = min(window.none for window in windows)
    weights = [window.weight for window in windows] + ([] if threshold is None else [none])
    total = float(np.logaddexp.reduce(weights))
    if threshold is not None and none - top.score > threshold:
        return Best(None, float(np.exp(none - total)))
    if top.score == -np.inf:  # no window has a token of the context
        return Best(None, 1.0)
    return Best((top.start, top.end), float(np.exp(top.score - total)))


def grouped(found: Sequence[Any]) -> Iterator[list[Any]]:
    """The windows of each question, which stand side by side; `window` of the first is 0."""
    group: list[Any] = []
    for window in found:
        if window.window == 0 and group:
            yield group
            group = []
        group.append(window)
    if group:
        yield group
