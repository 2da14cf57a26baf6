"""Tasks that compare: pairs of answers in every known shape, rows of several texts, ranks and margins by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manta.artifact import Resolved
from manta.errors import InputError
from manta.evaluate import figures
from manta.evaluate.scores import score
from manta.sections.tasks import EmbeddingTask, PreferenceTask
from manta.sections.train import FinetuneData
from manta.tasks import COMPARING, embedding, examples, preference
from manta.tasks.encoding import rows
from manta.tasks.examples import preview
from manta.tasks.examples.splitting import validating
from manta.tasks.fields import CHECKS
from manta.tasks.labels import filler
from tests.tasks import labelled

PAIRS, TEXTS = PreferenceTask(name="preference"), EmbeddingTask(name="embedding")
ASKED = [{"role": "user", "content": "Why?"}]


def turn(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def loaded(file: Path, task: Any, **columns: str) -> list[dict[str, Any]]:
    inputs = {"data.examples": Resolved("data.examples", "f", "file", str(file), "", "")}
    data = FinetuneData(examples=str(file), validation_fraction=0.0, columns=columns)
    return examples.load(inputs, data, task).train


def lines(folder: Path, records: list[dict[str, Any]]) -> Path:
    file = folder / "file.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def test_every_comparing_task_has_its_parts() -> None:
    for name, task in COMPARING.items():
        assert task.score([1, 1], [None, None])["score"] == 100.0, name
        assert set(task.score([1], [None])) == set(task.SCORES)
        assert all(field.kind in CHECKS for field in task.FIELDS)
        assert next(iter(task.PARTS.values())) == ""


# --- files -----------------------------------------------------------------------------------------------------------

WANTED = {"input": "Why?", "chosen": "So.", "rejected": "Dunno."}
TALK = {"messages": ASKED, "chosen": "So.", "rejected": "Dunno."}
SHAPES = {
    "texts": (WANTED, WANTED),
    "messages": (TALK, TALK),
    "a prompt": ({"prompt": "Why?", "chosen": "So.", "rejected": "Dunno."}, WANTED),
    "a prompt of messages": ({"prompt": ASKED, "chosen": [turn("So.")], "rejected": [turn("Dunno.")]}, TALK),
    "whole conversations": ({"chosen": [*ASKED, turn("So.")], "rejected": [*ASKED, turn("Dunno.")], "score_chosen": 7}, TALK),
    "all three": (
        {"prompt": "Why?", "messages": [*ASKED, turn("So.")], "chosen": [*ASKED, turn("So.")], "rejected": [*ASKED, turn("Dunno.")]},
        TALK,
    ),
    "alpaca": (
        {"instruction": "Say", "input": "why", "chosen": "So.", "rejected": "Dunno."},
        {"input": "Say\n\nwhy", "chosen": "So.", "rejected": "Dunno."},
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Why?"}], "chosen": {"from": "gpt", "value": "So."}, "rejected": {"from": "gpt", "value": "Dunno."}},
        TALK,
    ),
    "a system": (
        {"system": "Be kind.", **WANTED},
        {**TALK, "messages": [{"role": "system", "content": "Be kind."}, *ASKED]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_pairs_of_every_shape_are_recognised(shape: str, tmp_path: Path) -> None:
    raw, wanted = SHAPES[shape]
    assert loaded(lines(tmp_path, [raw]), PAIRS) == [wanted]
    pq.write_table(pa.Table.from_pylist([raw]), tmp_path / "file.parquet")
    assert loaded(tmp_path / "file.parquet", PAIRS) == [wanted]


def test_columns_of_other_names_are_mapped(tmp_path: Path) -> None:
    file = tmp_path / "file.csv"
    file.write_text('q,good,bad\nWhy?,"So.","Dunno."\n')
    assert loaded(file, PAIRS, input="q", chosen="good", rejected="bad") == [WANTED]
    file.write_text('q,good,bad\nWhy?,"{""a"": 1}",[]\n')
    assert loaded(file, PAIRS, input="q", chosen="good", rejected="bad")[0]["chosen"] == '{"a": 1}'
    turns = json.dumps([turn("So.")]).replace('"', '""')
    file.write_text(f'q,good,bad\nWhy?,"{turns}","{turns.replace("So", "No")}"\n')
    assert loaded(file, PAIRS, input="q", chosen="good", rejected="bad")[0]["rejected"] == "No."
    file.write_text("q,good,bad\nWhy?,So.,Dunno.\n")
    with pytest.raises(
        InputError, match=r"preference needs messages or input, and chosen and rejected: say .* data\.columns\.input=q"
    ):
        loaded(file, PAIRS)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({**WANTED, "rejected": "So."}, "line 2 has the same text in 'chosen' and 'rejected'"),
        ({"input": "Why?", "chosen": "So."}, "line 2 has no 'rejected'"),
        ({"chosen": "So.", "rejected": "Dunno."}, "line 2 has no 'messages'"),
        ({**WANTED, "rejected": " "}, "line 2 has an empty 'rejected'"),
        ({**WANTED, "rejected": [turn("Dunno.")]}, "line 2 has one of 'chosen' and 'rejected' as text and the other as messages"),
        ({"chosen": [*ASKED, turn("So.")], "rejected": [*ASKED, *ASKED, turn("No.")]}, "differ before their last answer"),
        ({"chosen": [*ASKED, turn("So.")], "rejected": ASKED}, "'rejected' that do not end with the assistant's answer"),
        ({**TALK, "messages": [*ASKED, turn("So.")]}, "does not end with the user's question"),
        ({**WANTED, "chosen": [3]}, "line 2 has one of|neither text nor messages"),
    ],
)  # fmt: skip
def test_bad_pairs_are_told_with_their_line(record: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        loaded(lines(tmp_path, [WANTED, record]), PAIRS)


def test_a_question_stands_on_one_side_with_all_its_pairs() -> None:
    many = [{**WANTED, "input": f"q{number % 7}", "chosen": f"{number}"} for number in range(50)]
    sides: dict[str, bool] = {}
    for made, validates in zip(many, validating(many, 0.5), strict=True):
        assert sides.setdefault(made["input"], validates) == validates
    assert set(sides.values()) == {True, False}
    assert validating([TALK], 0.5) == validating([{**TALK, "chosen": "other"}], 0.5)


def test_a_text_and_its_negative_must_differ(tmp_path: Path) -> None:
    good = {"text": "a", "positive": "b", "negative": "c"}
    assert loaded(lines(tmp_path, [good]), TEXTS) == [good]
    with pytest.raises(InputError, match="line 2 has the same text in 'positive' and 'negative'"):
        loaded(lines(tmp_path, [good, {**good, "negative": "b"}]), TEXTS)
    with pytest.raises(InputError, match="1 of 2 examples have a 'negative' and the others none"):
        embedding.refuse_mixed([good, {"text": "a", "positive": "b"}])
    embedding.refuse_mixed([good])
    embedding.refuse_mixed([{"text": "a", "positive": "b"}])


# --- rows ------------------------------------------------------------------------------------------------------------


def text_of(ids: list[int], labels: list[int], tokenizer: Any) -> str:
    return str(tokenizer.decode([number for number, label in zip(ids, labels, strict=True) if label != -100]))


def test_only_the_last_answer_of_each_side_is_scored(tokenizer: Any) -> None:
    before = [*ASKED, turn("Because."), {"role": "user", "content": "And?"}]
    row = preference.encode({"messages": before, "chosen": "So it is.", "rejected": "No."}, tokenizer, PAIRS)
    columns = row.columns
    assert len({len(values) for values in columns.values()}) == 1 and not row.truncated
    end = tokenizer.decode([columns["input_ids"][-1]])
    assert text_of(columns["input_ids"], columns["labels"], tokenizer) == f"So it is.{end}"
    assert text_of(columns["rejected_input_ids"], columns["rejected_labels"], tokenizer) == f"No.{end}"
    assert columns["rejected_input_ids"][-6:] == [filler(tokenizer)] * 6
    same = preference.encode({"input": "Why?", "chosen": "a", "rejected": "b"}, tokenizer, PAIRS).columns
    talk = preference.encode({"messages": ASKED, "chosen": "a", "rejected": "b"}, tokenizer, PAIRS).columns
    assert same == talk


def test_a_pair_that_is_cut_to_the_same_is_not_scored(tokenizer: Any) -> None:
    example = {"input": "Why?", "chosen": "yes and no", "rejected": "yes but no"}
    whole = preference.encode(example, tokenizer, PAIRS).columns
    asked = whole["labels"].index(next(label for label in whole["labels"] if label != -100))
    for limit, scored in ((asked, False), (asked + 4, False), (asked + 5, True)):
        row = preference.encode(example, tokenizer, PreferenceTask(name="preference", max_tokens=limit))
        assert row.truncated and len(row.columns["input_ids"]) == limit
        assert (set(row.columns["labels"]) != {-100}) == (set(row.columns["rejected_labels"]) != {-100}) == scored


def test_texts_side_by_side_are_of_one_length(tmp_path: Path) -> None:
    from manta.tasks import labels

    tokenizer = labels.tokenizer(labelled.bert(tmp_path / "bert"))
    example = {"text": "a good film", "positive": "lovely", "negative": "a dull match about cake"}
    row = embedding.encode(example, tokenizer, TEXTS)
    lengths = [sum(row.columns[f"{prefix}attention_mask"]) for prefix in embedding.PARTS.values()]
    assert lengths == [5, 3, 7] and row.columns["labels"] == 0 and not row.truncated
    assert {len(values) for name, values in row.columns.items() if name != "labels"} == {7}
    assert row.columns["positive_input_ids"][3:] == [tokenizer.pad_token_id] * 4
    assert tokenizer.decode(row.columns["positive_input_ids"][:3]) == "[CLS] lovely [SEP]"
    cut = embedding.encode(example, tokenizer, EmbeddingTask(name="embedding", max_tokens=6))
    assert cut.truncated and len(cut.columns["input_ids"]) == 6
    alone = embedding.encode({"text": "a good film"}, tokenizer, TEXTS)
    assert set(alone.columns) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    padded = {**{f"{prefix}input_ids": 3 for prefix in embedding.PARTS.values()}, **embedding.PADDED}
    assert rows.stacked([row], 8, padded)["negative_attention_mask"].tolist() == [[1] * 7 + [0]]


# --- scores ----------------------------------------------------------------------------------------------------------


def test_margins_and_their_accuracy() -> None:
    found = np.array(
        [[-5.0, -6.0, -5.0, -5.0], [-5.0, -4.0, -7.0, -5.0], [-1.0, -2.0, -1.0, -2.0], [-9.0, -1.0, 0.0, 0.0]]
    )
    margins = preference.predictions(found, {}, PreferenceTask(name="preference", beta=0.5))
    assert margins == [0.5, 0.5, 0.0, -4.0]
    assert preference.score(margins, [None] * 4) == {"score": 62.5, "margin": -0.75}
    scored = score("preference", margins, [None] * 4)
    assert scored.score == 62.5 and scored.each == [100.0, 100.0, 50.0, 0.0]


def test_figures_of_comparisons_are_those_of_the_score() -> None:
    """What intervals and comparisons are computed from, over all examples and for each."""
    ranks, margins = [1, 2, 4, 1], [0.5, -1.0, 0.0, 2.0]
    found = figures.of_task("embedding", [ranks], ["text"] * 4)
    whole = embedding.score(ranks, [None] * 4)
    assert {each.name: float(each.formula(each.rows[0].sum(0, keepdims=True))[0]) for each in found} == whole
    assert found[1].each(0).tolist() == [100.0, 50.0, 25.0, 100.0]
    (only,) = figures.of_task("preference", [margins, ranks], ["text"] * 4)
    assert only.each(0).tolist() == [100.0, 0.0, 50.0, 100.0] and only.each(1).tolist() == [100.0] * 4


def columns_of(texts: list[int], positives: list[int], negatives: list[int] | None = None) -> dict[str, Any]:
    """Texts of one token each."""
    found = {"labels": np.zeros(len(texts), int)}
    for prefix, ids in (("", texts), ("positive_", positives), ("negative_", negatives)):
        if ids is not None:
            found |= {
                f"{prefix}input_ids": np.array(ids)[:, None],
                f"{prefix}attention_mask": np.ones((len(ids), 1), int),
            }
    return found


def unit(angle: float) -> list[float]:
    return [float(np.cos(np.radians(angle))), float(np.sin(np.radians(angle)))]


def test_ranks_by_hand() -> None:
    """Texts at 0, 40 and 80 degrees; what belongs to them at 10, 90 and 75."""
    found = np.array([[unit(0), unit(10)], [unit(40), unit(90)], [unit(80), unit(75)]], dtype=np.float32)
    ranks = embedding.predictions(found, columns_of([1, 2, 3], [11, 12, 13]), TEXTS)
    assert ranks == [1, 3, 1]
    assert embedding.score(ranks, [None] * 3) == {"score": pytest.approx(200 / 3), "mrr": pytest.approx(100 * (2 + 1 / 3) / 3)}  # fmt: skip


def test_what_stands_twice_is_one_candidate_and_any_of_several_counts() -> None:
    one, two = [unit(0), unit(10)], [unit(5), unit(10)]
    twice = np.array([one, two, [unit(10), unit(80)]], dtype=np.float32)
    # The third text is nearest to what belongs to both others, which is one candidate.
    assert embedding.predictions(twice, columns_of([1, 2, 3], [11, 11, 13]), TEXTS) == [1, 1, 2]
    again = np.array([[unit(0), unit(80)], [unit(0), unit(5)], [unit(50), unit(45)]], dtype=np.float32)
    assert embedding.predictions(again, columns_of([1, 1, 3], [11, 12, 13]), TEXTS) == [1, 1, 1]
    assert embedding.predictions(again, columns_of([1, 2, 3], [11, 12, 13]), TEXTS) == [3, 1, 1]


def test_negatives_are_candidates() -> None:
    found = np.array([[unit(0), unit(10), unit(3)], [unit(90), unit(80), unit(40)]], dtype=np.float32)
    assert embedding.predictions(found, columns_of([1, 2], [11, 12], [21, 22]), TEXTS) == [2, 1]
    assert embedding.predictions(found, columns_of([1, 2], [11, 12], [11, 22]), TEXTS) == [1, 1]


# --- a dry run -------------------------------------------------------------------------------------------------------


def test_both_answers_are_shown_with_what_is_learnt(tokenizer: Any) -> None:
    said = preview.describe(PAIRS, WANTED, tokenizer, None)
    assert [line.partition(":")[0] for line in said] == ["chosen", "rejected"]
    assert said[0].endswith("|«S»|«o»|«.»|«<|end|>»") and said[1].endswith("|«D»|«u»|«n»|«n»|«o»|«.»|«<|end|>»")
    short = PreferenceTask(name="preference", max_tokens=20)
    assert preview.describe(short, {**WANTED, "input": "?" * 30}, tokenizer, None)[-1] == "cut at task.max_tokens"


def test_each_text_is_shown_without_what_fills_it_up(tmp_path: Path) -> None:
    from manta.tasks import labels

    tokenizer = labels.tokenizer(labelled.bert(tmp_path / "bert"))
    said = preview.describe(TEXTS, {"text": "a good film", "positive": "lovely"}, tokenizer, None)
    assert said == ["text: 5 tokens: [CLS]|a|good|film|[SEP]", "positive: 3 tokens: [CLS]|lovely|[SEP]"]
