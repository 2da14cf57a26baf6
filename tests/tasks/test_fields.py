"""What a field may hold, for the kinds that no file format of another test goes through."""

from typing import Any

import pytest

from manta.tasks.fields import Field, complaint
from manta.tasks.reading.record import example

RELATION = (Field("text", "text"), Field("head", "span"), Field("tail", "span"), Field("label", "label"))
ANSWERS = (Field("question", "text"), Field("context", "text"), Field("answers", "answers"))
CLASSES = (Field("text", "text"), Field("label", "label", True), Field("labels", "labels", True))


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ([0, 2], None),
        ([2, 2], "has a 'head' that does not start before it ends: [2, 2]"),
        ([-1, 2], "has a 'head' that does not start before it ends: [-1, 2]"),
        ([0, 7], "has a 'head' of [0, 7] that ends behind the text's 6 characters"),
        ([0], "has a 'head' that is not [start, end] in characters: [0]"),
        ([False, True], "has a 'head' that is not [start, end] in characters: [False, True]"),
        ("0 2", "has a 'head' that is not [start, end] in characters: '0 2'"),
    ],
)
def test_spans_lie_within_the_text(head: Any, told: str | None) -> None:
    assert complaint(RELATION, {"text": "Jo ran", "head": head, "tail": [3, 6], "label": "r"}) == told


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([], None),
        ([{"text": "Oslo", "start": 3}, {"text": "in", "start": 0}], None),
        ([{"text": "Oslo", "start": 2}], "has an answer 1 'Oslo' that does not start at 2 of the context: ' Osl' does"),
        ([{"text": "Oslo", "start": -1}], "has an answer 1 whose 'start' is no place in the context: -1"),
        ([{"text": " ", "start": 2}], "has an answer 1 without text in 'text'"),
        ("Oslo", "has 'answers' that are not a list of {text, start} but 'Oslo'"),
        (None, "has no 'answers' (it has 'question', 'context', 'answers')"),
    ],
)
def test_answers_stand_where_they_say(answers: Any, told: str | None) -> None:
    assert complaint(ANSWERS, {"question": "where?", "context": "in Oslo", "answers": answers}) == told


def test_answers_come_in_the_forms_of_squad() -> None:
    record = {"question": "where?", "context": "in Oslo", "id": "7"}
    wanted = {"question": "where?", "context": "in Oslo", "answers": [{"text": "Oslo", "start": 3}]}
    for answers in (
        {"text": ["Oslo"], "answer_start": [3]},
        [{"text": "Oslo", "answer_start": 3}],
        [{"text": "Oslo", "start": 3}],
    ):
        assert example({**record, "answers": answers}, ANSWERS, {}, cells=False) == wanted
    assert example({**record, "answers": {"text": [], "answer_start": []}}, ANSWERS, {}, cells=False) == {
        **wanted,
        "answers": [],
    }


def test_one_of_label_and_labels_must_be_there() -> None:
    assert complaint(CLASSES, {"text": "t", "label": "x"}) is None
    assert complaint(CLASSES, {"text": "t", "labels": []}) is None
    assert complaint(CLASSES, {"text": "t", "label": None}) == "has no 'label' (it has 'text', 'label')"
    assert complaint(CLASSES, {"text": "t", "labels": ["a", "a"]}) == "has 'labels' that name one twice: ['a', 'a']"
    assert complaint(CLASSES, {"text": "t", "labels": "a"}) == "has 'labels' that are no list but 'a'"
    assert complaint(CLASSES, {"text": "t", "labels": [1]}) == "has 'labels' of which one is no text: 1"
