"""Tasks that label: what a model reads, which pieces are marked, what its logits say, the scores by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta.errors import InputError
from manta.sections.tasks import ClassificationTask, TaggingTask
from manta.storage import Folder
from manta.tasks import LABELLING, WINDOWED, classification, labels, tagging
from manta.tasks.labels import Labels
from tests.tasks import labelled

ONE = ClassificationTask(name="classification")
SEVERAL = ClassificationTask(name="classification", several=True)
TAGS = TaggingTask(name="tagging")
NAMES = Labels(("a", "b", "c"), (1, 2, 3))
BIO = Labels(("B-LOC", "B-PER", "I-LOC", "O"), (1, 1, 1, 1))


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled.bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def bert_tokenizer(bert_folder: Path) -> Any:
    return labels.tokenizer(bert_folder)


def test_every_labelling_task_has_the_same_shape() -> None:
    shape = ("problem", "named", "reference", "encode", "decode", "references", "shares", "score")
    right: dict[str, tuple[Any, Any]] = {"tagging": (["B-X"], ["B-X"]), "answering": ("a word", ["a word"])}
    for name, task in LABELLING.items():
        assert task.FIELDS, name
        assert task.PADDED, name
        guess, wanted = right.get(name, ("a", "a"))
        assert set(task.score([guess], [wanted])) == set(task.SCORES), name
        for function in (*shape, *(("joined", "keep", "kept") if name in WINDOWED else ("confidence",))):
            assert callable(getattr(task, function, None)), f"{name} lacks {function}"


# --- labels ----------------------------------------------------------------------------------------------------------


def test_labels_are_sorted_counted_and_stored_as_transformers_reads_them(tmp_path: Path) -> None:
    found = labels.collect(labelled.SENTIMENTS[2:], lambda e: [e["label"]], "single_label_classification")
    assert found == Labels(("negative", "positive"), (5, 3), "single_label_classification")
    assert found.config() == {
        "id2label": {0: "negative", 1: "positive"},
        "label2id": {"negative": 0, "positive": 1},
        "problem_type": "single_label_classification",
    }
    labels.save(found, Folder(tmp_path))
    assert labels.load(Folder(tmp_path)) == found
    again = labels.of_config(json.loads(json.dumps(found.config())))
    assert (again.names, again.problem) == (found.names, found.problem)


def test_balanced_weights_have_mean_one_over_the_examples() -> None:
    found = Labels(("rare", "often"), (2, 8))
    assert found.balanced() == [2.5, 0.625]
    assert sum(w * n for w, n in zip(found.balanced(), found.counts, strict=True)) / 10 == pytest.approx(1)


def test_many_labels_keep_their_order_in_a_config() -> None:
    names = tuple(f"l{number:02}" for number in range(12))  # "10" sorts before "2"
    config = json.loads(json.dumps(Labels(names, (1,) * 12).config(), sort_keys=True))
    assert labels.of_config(config).names == names


def test_a_label_of_validation_alone_is_refused_with_its_texts() -> None:
    with pytest.raises(InputError) as refused:
        labels.refuse_unknown(
            NAMES, [{"text": "so long", "label": "d"}, {"text": "x", "label": "a"}], lambda e: [e["label"]]
        )
    assert "1 labels stand in validation examples alone" in str(refused.value)
    assert "'d': so long" in str(refused.value) and "'a'" not in str(refused.value)


def test_a_label_that_no_row_has_is_refused() -> None:
    labels.refuse_unlearnt(NAMES, [1, 1, 1], "raise it")
    with pytest.raises(InputError, match="no training row has the labels 'a', 'c', which the examples name: raise it"):
        labels.refuse_unlearnt(NAMES, [0, 4, 0], "raise it")


# --- classification --------------------------------------------------------------------------------------------------


def test_a_text_and_a_pair_are_read_as_the_tokenizer_has_them(bert_tokenizer: Any) -> None:
    known = Labels(("other", "same"), (1, 1))
    alone = classification.encode({"text": "a good film", "label": "same"}, bert_tokenizer, ONE, known)
    assert alone.columns == {**bert_tokenizer("a good film"), "labels": 1}
    assert bert_tokenizer.convert_ids_to_tokens(alone.columns["input_ids"])[0] == "[CLS]"
    pair = classification.encode(labelled.PAIRS[1], bert_tokenizer, ONE, known)
    assert pair.columns == {**bert_tokenizer("a good film", "a bad film"), "labels": 0}
    assert set(pair.columns["token_type_ids"]) == {0, 1}
    assert not pair.truncated


def test_what_is_too_long_is_cut_at_its_end_and_said_so(bert_tokenizer: Any) -> None:
    short = ClassificationTask(name="classification", max_tokens=5)
    row = classification.encode({"text": "a good film , really", "label": "a"}, bert_tokenizer, short, NAMES)
    assert row.truncated and len(row.columns["input_ids"]) == 5
    assert bert_tokenizer.convert_ids_to_tokens(row.columns["input_ids"])[-1] == "[SEP]"
    fits = classification.encode({"text": "a good film", "label": "a"}, bert_tokenizer, short, NAMES)
    assert not fits.truncated and len(fits.columns["input_ids"]) == 5


def test_several_labels_are_zeros_and_ones(bert_tokenizer: Any) -> None:
    row = classification.encode({"text": "a", "labels": ["c", "a"]}, bert_tokenizer, SEVERAL, NAMES)
    assert row.columns["labels"] == [1, 0, 1]
    assert classification.reference({"text": "a", "labels": ["c", "a"]}, SEVERAL) == ["a", "c"]
    nothing = classification.encode({"text": "a", "labels": []}, bert_tokenizer, SEVERAL, NAMES)
    assert nothing.columns["labels"] == [0, 0, 0]


def test_an_example_without_a_label_can_be_read(bert_tokenizer: Any) -> None:
    for settings in (ONE, SEVERAL):
        bare = classification.encode({"text": "a film"}, bert_tokenizer, settings, NAMES)
        assert bare.columns["input_ids"] == bert_tokenizer("a film")["input_ids"]


def test_a_tokenizer_that_runs_pairs_together_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="puts nothing between the texts of a pair"):
        classification.encode(labelled.PAIRS[0], tokenizer, ONE, Labels(("other", "same"), (1, 1)))


def test_logits_become_labels() -> None:
    logits = np.array([[0.1, 2.0, -1.0], [3.0, 2.0, 1.0]], dtype=np.float32)
    assert classification.decode(logits, {}, NAMES, ONE) == ["b", "a"]
    assert classification.decode(logits - 1.5, {}, NAMES, SEVERAL) == [["b"], ["a", "b"]]
    columns = {"labels": np.array([2, 0])}
    assert classification.references(columns, NAMES, ONE) == ["c", "a"]
    columns = {"labels": np.array([[1, 0, 1], [0, 0, 0]])}
    assert classification.references(columns, NAMES, SEVERAL) == [["a", "c"], []]
    shares = classification.confidence(np.log(np.array([[1.0, 2.0, 1.0]])), {}, ONE)
    assert shares == [pytest.approx([0.25, 0.5, 0.25])]
    assert classification.confidence(np.log(np.array([[1.0, 3.0]])), {}, SEVERAL) == [pytest.approx([0.5, 0.75])]


def test_scores_of_one_label_by_hand_and_by_scikit_learn() -> None:
    guessed, wanted = ["a", "a", "b", "c", "a"], ["a", "b", "b", "b", "a"]
    found = classification.score(guessed, wanted)
    # a: 2 right of 3 and 2 -> 4/5; b: 1 right of 1 and 3 -> 1/2; c: none of 1 and 0 -> 0
    assert found == {
        "score": pytest.approx(60),
        "accuracy": pytest.approx(60),
        "macro_f1": pytest.approx(100 * (0.8 + 0.5) / 3),
    }
    metrics = pytest.importorskip("sklearn.metrics")
    assert found["accuracy"] == pytest.approx(100 * metrics.accuracy_score(wanted, guessed))
    assert found["macro_f1"] == pytest.approx(100 * metrics.f1_score(wanted, guessed, average="macro", zero_division=0))


def test_scores_of_several_labels_by_hand_and_by_scikit_learn() -> None:
    guessed, wanted = [["a", "b"], [], ["c"], ["a"]], [["a"], [], ["a", "b"], ["a"]]
    found = classification.score(guessed, wanted)
    # 2/3, 1, 0, 1; whole sets right: the second and the fourth
    assert found["score"] == pytest.approx(100 * (2 / 3 + 1 + 0 + 1) / 4)
    assert found["accuracy"] == pytest.approx(50)
    # a: 2 right of 2 and 3; b: none of 1 and 1; c: none of 1 and 0
    assert found["macro_f1"] == pytest.approx(100 * (0.8 + 0 + 0) / 3)
    table = [[[int(name in names) for name in "abc"] for names in side] for side in (wanted, guessed)]
    metrics = pytest.importorskip("sklearn.metrics")
    assert found["accuracy"] == pytest.approx(100 * metrics.accuracy_score(*table))
    assert found["score"] == pytest.approx(100 * metrics.f1_score(*table, average="samples", zero_division=1))
    assert found["macro_f1"] == pytest.approx(100 * metrics.f1_score(*table, average="macro", zero_division=0))


# --- tagging ---------------------------------------------------------------------------------------------------------


def test_only_the_first_piece_of_a_word_is_marked(bert_tokenizer: Any) -> None:
    example = {"tokens": ["anna", "paristory", "in"], "tags": ["B-PER", "B-LOC", "O"]}
    row = tagging.encode(example, bert_tokenizer, TAGS, BIO)
    pieces = bert_tokenizer.convert_ids_to_tokens(row.columns["input_ids"])
    marked = {piece: label for piece, label in zip(pieces, row.columns["labels"], strict=True) if label != -100}
    assert len(pieces) > 5, "a word of several pieces is wanted here"
    assert list(marked.values()) == [1, 0, 3] and not any(piece.startswith("##") for piece in marked)
    assert row.columns["labels"][0] == row.columns["labels"][-1] == -100
    assert (row.words, row.num_words, row.truncated) == ((0, 1, 2), 3, False)


def test_words_that_are_cut_off_or_have_no_piece_are_outside(bert_tokenizer: Any) -> None:
    short = TaggingTask(name="tagging", max_tokens=5)
    example = {"tokens": ["anna", "\u200d", "lives", "in", "paris"], "tags": ["B-PER", "O", "O", "O", "B-LOC"]}
    row = tagging.encode(example, bert_tokenizer, short, BIO)
    assert row.truncated and row.num_words == 5 and row.words[0] == 0 and row.words[-1] < 4
    logits = np.zeros((1, 5, 4), dtype=np.float32)
    logits[..., 1] = 1.0  # all are B-PER
    columns = {"labels": np.array([row.columns["labels"]])}
    (found,) = tagging.decode(logits, columns, BIO, short, [row])
    assert len(found) == 5
    assert [tag == "B-PER" for tag in found] == [word in row.words for word in range(5)]
    assert found[-1] == "O"
    assert tagging.decode(logits, columns, BIO, short) == [["B-PER"] * len(row.words)]


def test_a_tokenizer_that_joins_words_is_refused(tokenizer_folder: Path) -> None:
    from transformers import RobertaTokenizerFast

    byte_level = RobertaTokenizerFast(tokenizer_file=str(tokenizer_folder / "tokenizer.json"))
    with pytest.raises(InputError, match='"add_prefix_space": true'):
        tagging.encode(labelled.ENTITIES[0], byte_level, TAGS, BIO)


def test_scores_of_entities_by_hand_and_by_seqeval() -> None:
    wanted = [["B-PER", "O", "B-LOC", "I-LOC"], ["O", "O"], ["B-PER"]]
    guessed = [["B-PER", "O", "B-LOC", "O"], ["O", "B-LOC"], ["B-PER"]]
    found = tagging.score(guessed, wanted)
    assert found["score"] == pytest.approx(100 * 2 * 2 / (4 + 3))
    assert found["precision"] == pytest.approx(50) and found["recall"] == pytest.approx(100 * 2 / 3)
    assert found["accuracy"] == pytest.approx(100 * 5 / 7)
    metrics = pytest.importorskip("seqeval.metrics")
    assert found["score"] == pytest.approx(100 * metrics.f1_score(wanted, guessed))
    assert found["precision"] == pytest.approx(100 * metrics.precision_score(wanted, guessed))
    assert found["recall"] == pytest.approx(100 * metrics.recall_score(wanted, guessed))
    assert found["accuracy"] == pytest.approx(100 * metrics.accuracy_score(wanted, guessed))


def test_tags_that_mark_no_entities_are_scored_by_word() -> None:
    wanted, guessed = [["NOUN", "VERB"], ["NOUN"]], [["NOUN", "NOUN"], ["NOUN"]]
    assert tagging.score(guessed, wanted) == {"score": pytest.approx(200 / 3), "accuracy": pytest.approx(200 / 3)}
    assert tagging.shares(guessed, wanted) == [(1.0, 2.0), (1.0, 1.0)]
    assert tagging.score([["O", "O"]], [["O", "O"]])["score"] == 100.0


@pytest.mark.parametrize(
    ("task", "guessed", "wanted"),
    [
        (classification, ["a", "b", "b"], ["a", "b", "c"]),
        (classification, [["a", "b"], []], [["a"], []]),
        (tagging, [["B-X", "O"], ["B-X"], ["O"]], [["B-X", "B-X"], ["B-Y"], ["O"]]),
        (tagging, [["N", "V"]], [["N", "N"]]),
    ],
)
def test_the_score_is_the_quotient_of_the_sums_of_its_shares(task: Any, guessed: Any, wanted: Any) -> None:
    above, below = zip(*task.shares(guessed, wanted), strict=True)
    assert task.score(guessed, wanted)["score"] == pytest.approx(100 * sum(above) / sum(below))
