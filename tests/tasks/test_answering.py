"""Windows over contexts by hand, their columns, decoding against trying every span, and SQuAD's score."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta.errors import InputError
from manta.sections.tasks import AnsweringTask
from manta.storage import Folder
from manta.tasks import answering, labels
from manta.tasks.encoding import rows
from manta.tasks.encoding.windows import Found
from manta.tasks.examples import preview
from manta.tasks.examples.loading import fields_of
from manta.tasks.labels import ENDS, Unusable
from manta.tasks.reading.record import example as read
from tests.tasks import spanned

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CONTEXT = " ".join(WORDS)


def settings(**given: Any) -> AnsweringTask:
    return AnsweringTask.model_validate({"name": "answering", **given})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = spanned.bert(tmp_path_factory.mktemp("bert"), [CONTEXT + " which ?", "北京大学"])
    return labels.tokenizer(folder)


def columns(example: dict[str, Any], tokenizer: Any, **given: Any) -> list[dict[str, Any]]:
    return [row.columns for row in answering.encode(example, tokenizer, settings(**given), ENDS)]


def shown(made: dict[str, Any]) -> list[str]:
    """The words of a window, by its characters."""
    return [CONTEXT[begin:end] for begin, end in zip(made["begins"], made["ends"], strict=True) if begin >= 0]


def test_windows_share_the_stride_and_name_their_characters(tokenizer: Any) -> None:
    """[CLS] which ? [SEP] + n words + [SEP]: of ten places five are the context's."""
    made = columns(spanned.asked("which ?", CONTEXT, "six"), tokenizer, max_tokens=10, stride=2)
    assert [shown(window) for window in made] == [WORDS[0:5], WORDS[3:8], WORDS[6:10]]
    assert [window["window"] for window in made] == [0, 1, 2]
    assert [window["none"] for window in made] == [0, 0, 0]
    assert [(window["start_positions"], window["end_positions"]) for window in made] == [(0, 0), (7, 7), (4, 4)]
    first = made[0]
    assert first["begins"] == [-1, -1, -1, -1, 0, 5, 9, 13, 19, -1]
    assert first["ends"] == [-1, -1, -1, -1, 4, 8, 12, 18, 23, -1]
    assert first["token_type_ids"] == [0] * 4 + [1] * 6 and first["attention_mask"] == [1] * 10
    assert tokenizer.decode(first["input_ids"]) == "[CLS] which ? [SEP] zero one two three four [SEP]"


def test_each_window_learns_the_first_answer_that_it_holds_whole(tokenizer: Any) -> None:
    example = spanned.asked("which ?", CONTEXT, "four five", "eight nine")
    made = columns(example, tokenizer, max_tokens=10, stride=2)
    assert [(window["start_positions"], window["end_positions"]) for window in made] == [(0, 0), (5, 6), (6, 7)]
    for window in made[1:]:
        begin, end = window["begins"][window["start_positions"]], window["ends"][window["end_positions"]]
        assert CONTEXT[begin:end] in ("four five", "eight nine")


def test_an_answer_that_no_window_holds_is_not_learnt(tokenizer: Any) -> None:
    found = answering.encode(
        spanned.asked("which ?", CONTEXT, "two three four five six seven"), tokenizer, settings(max_tokens=10, stride=2), ENDS
    )  # fmt: skip
    assert (
        {row.columns["start_positions"] for row in found} == {row.columns["end_positions"] for row in found} == {-100}
    )
    assert all(row.truncated for row in found)
    assert rows.statistics(found)["trained_tokens"] == 0


def test_without_answers_all_windows_point_at_the_first_token(tokenizer: Any) -> None:
    for example in (spanned.asked("which ?", CONTEXT), {"question": "which ?", "context": CONTEXT}):
        made = columns(example, tokenizer, max_tokens=10, stride=2)
        assert [(window["start_positions"], window["end_positions"]) for window in made] == [(0, 0)] * 3


def test_blanks_around_an_answer_do_not_matter(tokenizer: Any) -> None:
    example = {"question": "which ?", "context": CONTEXT, "answers": [{"text": " six ", "start": 28}]}
    assert CONTEXT[28:33] == " six "
    (made,) = columns(example, tokenizer)
    assert (made["start_positions"], made["end_positions"]) == (10, 10)


def test_a_question_that_leaves_no_room_is_refused(tokenizer: Any) -> None:
    with pytest.raises(Unusable, match=r"has a question of 2 tokens, beside which task.max_tokens = 7 leaves 2 of the context.*raise task.max_tokens"):  # fmt: skip
        columns(spanned.asked("which ?", CONTEXT, "six"), tokenizer, max_tokens=7, stride=2)
    assert len(columns(spanned.asked("which ?", CONTEXT, "six"), tokenizer, max_tokens=8, stride=2)) == 8
    with pytest.raises(ValueError, match="stride = 7 is no less than max_tokens = 7"):
        settings(max_tokens=7, stride=7)


def test_a_tokenizer_that_divides_no_pairs_is_refused(tmp_path: Path) -> None:
    from manta.data import tokenizer as tokenizers

    tokenizers.train(iter(["a"]), 300, tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="sets no special token before a text"):
        columns(spanned.asked("which ?", CONTEXT, "six"), labels.tokenizer(tmp_path))


def test_decoding_against_trying_every_span_of_every_window(tokenizer: Any) -> None:
    """Random logits; the best span, the text of its characters and the probability by plain loops."""
    examples = [spanned.asked("which ?", CONTEXT, "six"), spanned.asked("which ?", CONTEXT[:30], "two")]
    task = settings(max_tokens=10, stride=2, max_answer_tokens=3, null_threshold=-2.5)
    made = [answering.encode(example, tokenizer, task, ENDS) for example in examples]
    flat = [row for found in made for row in found]
    stacked = rows.stacked(flat, 12, {"input_ids": 0, **answering.PADDED})
    generator, said = np.random.default_rng(0), []
    for _ in range(20):
        logits = generator.normal(size=(len(flat), 2, 12)).astype(np.float32)
        told, sure = answering.joined(
            answering.decode(logits, stacked, ENDS, task), [e["context"] for e in examples], task
        )
        for example, first, count, answer, share in zip(
            examples, (0, len(made[0])), map(len, made), told, sure, strict=True
        ):
            spans, none = {}, math.inf
            for row in range(first, first + count):
                none = min(none, float(logits[row, 0, 0]) + float(logits[row, 1, 0]))
                for i, j in itertools.product(range(12), repeat=2):
                    if i <= j < i + 3 and stacked["begins"][row, i] >= 0 and stacked["begins"][row, j] >= 0:
                        text = example["context"][stacked["begins"][row, i] : stacked["ends"][row, j]]
                        spans[row, i, j] = (float(logits[row, 0, i]) + float(logits[row, 1, j]), text)
            score, text = max(spans.values())
            total = sum(math.exp(value) for value, _ in spans.values()) + math.exp(none)
            unanswered = none - score > -2.5
            assert answer == ("" if unanswered else text)
            assert share == [pytest.approx(math.exp(none if unanswered else score) / total, abs=2e-6)]
            said.append(unanswered)
    assert True in said and False in said


def test_answers_are_cut_out_exactly(tokenizer: Any) -> None:
    """Upper case, blanks and letters that the tokenizer does not know stay as they are in the context."""
    context = "In  Two   thousand Ünïts"
    (row,) = answering.encode({"question": "?", "context": context}, tokenizer, settings(), ENDS)
    inside = [place for place, begin in enumerate(row.columns["begins"]) if begin >= 0]
    begin, end = row.columns["begins"][inside[0]], row.columns["ends"][inside[-1]]
    assert context[begin:end] == context
    assert answering.joined([Found(0, 4, 18, 1.0, 0.0, 1.0)], [context], settings())[0] == ["Two   thousand"]


def test_scores_by_hand() -> None:
    wanted = [["six"], ["one two", "two"], [], ["北京大学"]]
    found = answering.score(["the six", "Two.", "", "在北京"], wanted)
    assert found["score"] == pytest.approx(100 * (1 + 1 + 1 + 2 * 2 / 7) / 4)
    assert found["exact_match"] == 75.0 and found["unanswerable_recall"] == 100.0
    assert answering.shares(["two"], [["one two"]]) == [(pytest.approx(2 / 3), 1.0)]


def test_what_is_kept_beside_the_rows(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    answering.keep(spanned.MISSING[5:7], settings(), folder)
    contexts, wanted = answering.kept(folder)
    assert contexts == [spanned.CONTEXT.format("clara"), spanned.CONTEXT.format("anna")]
    assert wanted == [["the old king of spain"], []]


def test_a_question_without_answer_needs_a_threshold() -> None:
    record = {"question": "which ?", "context": CONTEXT, "answers": []}
    assert read(record, fields_of(settings(null_threshold=0.0)), {}, cells=False) == record
    told = read(record, fields_of(settings()), {}, cells=False)
    assert told == "has no 'answers': set task.null_threshold=0 if a context may hold none"
    squad = {**record, "answers": {"text": ["two"], "answer_start": [9]}}
    assert read(squad, fields_of(settings()), {}, cells=False) == {**record, "answers": [{"text": "two", "start": 9}]}


def test_a_dry_run_shows_the_windows_and_the_answer(tokenizer: Any) -> None:
    said = preview.describe(
        settings(max_tokens=10, stride=2), spanned.asked("which ?", CONTEXT, "five six"), tokenizer, ENDS
    )
    assert said == [
        "window 1 of 3, 10 tokens, no answer: [CLS]|which|?|[SEP]|zero|one|two|three|four|[SEP]",
        "window 2 of 3, 10 tokens, answer: [CLS]|which|?|[SEP]|three|four|«five»|«six»|seven|[SEP]",
        "window 3 of 3, 9 tokens, no answer: [CLS]|which|?|[SEP]|six|seven|eight|nine|[SEP]",
    ]
    lost = spanned.asked("which ?", CONTEXT, "two three four five six seven")
    said = preview.describe(settings(max_tokens=10, stride=2), lost, tokenizer, ENDS)
    assert said[0].startswith("window 1 of 3, 10 tokens, not learnt: no window holds the whole answer: [CLS]|which|?|")
