"""Which answers are kept: faults by hand, the same text twice, rows out of continuations, seeds of single questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta.generate import keeping
from manta.generate.judging import Answer, fault, repetition
from manta.generate.prompts import SEEDS, Asked, Prompt, seed_of
from manta.generate.writing import asks
from tests.generate.conftest import recipe_of

CHAT: dict[str, Any] = {"data": {"examples": "./x.jsonl"}, "task": {"name": "chat"}}


class Spelled:
    """A tokenizer whose tokens are characters; 0 ends an answer."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(map(chr, ids)).replace("\0", "")


def ids(text: str) -> list[int]:
    return list(map(ord, text))


def test_repetition_by_hand() -> None:
    assert repetition(ids("abcdefgh")) == 0.0
    assert repetition(ids("abcabcabc")) == pytest.approx(0.5)  # 6 runs of four, of which abca, bcab, cabc differ
    assert repetition(ids("aaaaaaaa")) == pytest.approx(0.8)
    assert repetition(ids("abc")) == 0.0


@pytest.mark.parametrize(
    ("answer", "whole", "reason"),
    [
        (Answer(ids("fine\0"), True), True, None),
        (Answer(ids("\n\0"), True), True, "empty"),
        (Answer(ids("never ends"), False), True, "truncated"),
        (Answer(ids("never ends"), False), False, None),
        (Answer(ids("no no no no no no \0"), True), True, "repetitive"),
    ],
)
def test_faults(answer: Answer, whole: bool, reason: str | None) -> None:
    assert fault(answer, Spelled().decode(answer.ids, True), 0.5, whole) == reason


def test_each_answer_is_judged_where_it_belongs() -> None:
    recipe = recipe_of(Path("/x"), "/x", **CHAT, generate={"temperature": 1.0, "samples": 2})
    asked = Asked([Prompt([1], 9), Prompt([2], 0), Prompt([3], 9)], [{"input": "a"}] * 3, 2)
    wanted = asks(recipe, asked.prompts)
    assert [ask.ids for ask in wanted] == [[1], [1], [3], [3]], "what has no room is not asked"
    assert len({ask.seed for ask in wanted}) == 4
    said = ["yes", "yes ", "\0", "no"]
    kept = keeping.sort(recipe, asked, [Answer(ids(text + "\0"), True) for text in said], Spelled())
    assert kept.texts == [["yes"], [], ["no"]]
    assert kept.dropped == [(0, "repeated", "yes"), (1, "too_long", ""), (1, "too_long", ""), (2, "empty", "")]
    assert kept.reasons == {"empty": 1, "repeated": 1, "too_long": 2} and kept.count == 2


def test_an_answer_takes_the_place_of_the_old_one() -> None:
    user, old = {"role": "user", "content": "q"}, {"role": "assistant", "content": "old"}
    new = {"role": "assistant", "content": "new"}
    assert keeping.with_answer({"input": "q", "target": "old"}, "new") == {"input": "q", "target": "new"}
    assert keeping.with_answer({"messages": [user, old, user, old]}, "new") == {"messages": [user, old, user, new]}
    assert keeping.with_answer({"messages": [user]}, "new") == {"messages": [user, new]}


def test_rows_of_continuations() -> None:
    """What fills a row stands alone, whatever came before it; the rest is one stream, and its end is left over."""
    rows, left = keeping.packed([[1, 2, 0], [3, 4, 5, 6], [7, 8, 0], [9, 9, 9, 9], [7, 0]], 4)
    assert rows.tolist() == [[3, 4, 5, 6], [9, 9, 9, 9], [1, 2, 0, 7], [8, 0, 7, 0]] and left == 0
    assert rows.dtype == np.int32
    rows, left = keeping.packed([[1, 0]], 4)
    assert rows.shape == (0, 4) and left == 2


def test_a_seed_depends_on_question_and_sample_alone() -> None:
    assert seed_of(1, [12, 3], 0) == seed_of(1, [12, 3], 0) < SEEDS
    different = {seed_of(1, [12, 3], 0), seed_of(1, [1, 23], 0), seed_of(1, [12, 3], 1), seed_of(2, [12, 3], 0)}
    assert len(different) == 4
