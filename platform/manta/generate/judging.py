"""Which of a teacher's answers a student had better not learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

RUN = 4  # tokens


class Answer(NamedTuple):
    """What a teacher wrote: its tokens, up to and with one that ends an answer if it `ended`."""

    ids: list[int]
    ended: bool


def repetition(ids: Sequence[int]) -> float:
    """The share of an answer's runs of four tokens that were there before: 1 - different / all (seq-rep-4 of Welleck et
    al. 2019, arXiv:1908.04319). 0 where it has no such run."""
    runs = [tuple(ids[place : place + RUN]) for place in range(len(ids) - RUN + 1)]
    return 1.0 - len(set(runs)) / len(runs) if runs else 0.0


def fault(answer: Answer, text: str, max_repetition: float, whole: bool) -> str | None:
    """Why an answer of this text is left out: `empty`, `truncated` (it must be `whole`, and had no room to end), `repetitive`."""
    if not text.strip():
        return "empty"
    if whole and not answer.ended:
        return "truncated"
    return "repetitive" if repetition(answer.ids) > max_repetition else None
