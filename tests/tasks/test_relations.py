"""Marked entities as rows, texts cut around them, and F1 without the label that says no relation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta.errors import InputError
from manta.sections.tasks import RelationsTask
from manta.tasks import labels, relations
from manta.tasks.encoding.markers import MARKERS
from manta.tasks.examples import preview
from manta.tasks.labels import Labels, Unusable
from tests.tasks import spanned

KNOWN = Labels(("none", "works_for"), (5, 5), "single_label_classification")


def settings(**given: Any) -> RelationsTask:
    return RelationsTask.model_validate({"name": "relations", **given})


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spanned.bert(tmp_path_factory.mktemp("bert"), spanned.texts(spanned.RELATIONS))


@pytest.fixture(scope="module")
def tokenizer(bert: Path) -> Any:
    return labels.tokenizer(bert, MARKERS)


def test_markers_are_single_tokens_that_survive_saving(bert: Path, tokenizer: Any, tmp_path: Path) -> None:
    bare = labels.tokenizer(bert)
    assert [tokenizer.convert_tokens_to_ids(marker) for marker in MARKERS] == [len(bare) + n for n in range(4)]
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((bert / "config.json").read_bytes())
    again = labels.tokenizer(tmp_path, MARKERS)
    assert len(again) == len(tokenizer) == len(bare) + 4
    assert again("[E1]Anna[/E1] of")["input_ids"] == tokenizer("[E1]Anna[/E1] of")["input_ids"]
    assert not set(MARKERS) & set(
        again.decode(again("[E1]Anna[/E1] of")["input_ids"], skip_special_tokens=True).split()
    )


def test_rows_by_hand(tokenizer: Any) -> None:
    first, second = (relations.encode(example, tokenizer, settings(), KNOWN) for example in spanned.RELATIONS[:2])
    words = "[CLS] [E1] anna [/E1] of [E2] acme [/E2] met the mayor of paris [SEP]"
    assert tokenizer.convert_ids_to_tokens(first.columns["input_ids"]) == words.split()
    assert first.columns["labels"] == 1 and second.columns["labels"] == 0 and not first.truncated
    words = "[CLS] [E1] anna [/E1] of acme met the mayor of [E2] paris [/E2] [SEP]"
    assert tokenizer.convert_ids_to_tokens(second.columns["input_ids"]) == words.split()
    assert second.columns["token_type_ids"] == [0] * 14 and second.columns["attention_mask"] == [1] * 14
    turned = {**spanned.RELATIONS[0], "head": spanned.RELATIONS[0]["tail"], "tail": spanned.RELATIONS[0]["head"]}
    words = "[CLS] [E2] anna [/E2] of [E1] acme [/E1] met the mayor of paris [SEP]"
    made = relations.encode({key: turned[key] for key in ("text", "head", "tail")}, tokenizer, settings(), KNOWN)
    assert tokenizer.convert_ids_to_tokens(made.columns["input_ids"]) == words.split()
    assert made.columns["labels"] == 0  # as in serving


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (15, "[CLS] the mayor [E1] of [/E1] paris met the [E2] mayor [/E2] of paris [SEP]"),
        (12, "[CLS] [E1] of [/E1] paris met the [E2] mayor [/E2] of [SEP]"),
        (11, "[CLS] [E1] of [/E1] paris met the [E2] mayor [/E2] [SEP]"),
        (10, None),
    ],
)
def test_a_long_text_is_cut_around_the_entities(limit: int, words: str | None, tokenizer: Any) -> None:
    text = "met the mayor of paris met the mayor of paris"
    example = {"text": text, "head": [14, 16], "tail": [31, 36], "label": "none"}
    if words is None:
        with pytest.raises(Unusable, match=r"entities 'of' and 'mayor' 9 tokens from end to end, and of task.max_tokens = 10 there are 8"):  # fmt: skip
            relations.encode(example, tokenizer, settings(max_tokens=limit), KNOWN)
        return
    made = relations.encode(example, tokenizer, settings(max_tokens=limit), KNOWN)
    assert tokenizer.convert_ids_to_tokens(made.columns["input_ids"]) == words.split()
    assert made.truncated and len(made.columns["token_type_ids"]) == len(made.columns["attention_mask"]) == limit


def test_what_would_be_taken_for_a_marker_is_refused(bert: Path, tokenizer: Any) -> None:
    example = spanned.related("anna [E1] met paris", "anna", "paris", "none")
    with pytest.raises(Unusable, match=r"has '\[E1\]' in its text, which marks the entities: take it out"):
        relations.encode(example, tokenizer, settings(), KNOWN)
    with pytest.raises(
        InputError, match=r"does not know the markers .*: fine-tune the model for task.name=relations first"
    ):
        relations.encode(spanned.RELATIONS[0], labels.tokenizer(bert), settings(), KNOWN)


def test_no_relation_has_a_name_of_its_own() -> None:
    task = settings(no_relation="none")
    logits = np.array([[2.0, 1.0], [0.0, 1.0]], dtype=np.float32)
    assert relations.decode(logits, {}, KNOWN, task) == ["(none)", "works_for"]
    assert relations.decode(logits, {}, KNOWN, settings()) == ["none", "works_for"]
    assert relations.references({"labels": np.array([1, 0])}, KNOWN, task) == ["works_for", "(none)"]
    assert relations.reference(spanned.RELATIONS[1], task) == "(none)"
    with pytest.raises(InputError, match=r"task.no_relation = 'no' is none of the labels 'none', 'works_for'"):
        relations.refuse_unknown_none(settings(no_relation="no"), KNOWN)


def test_scores_by_hand() -> None:
    """Right: one a of two that are true and two that are predicted; b is never right."""
    wanted = ["a", "a", "(none)", "(none)", "b"]
    found = relations.score(["a", "(none)", "a", "(none)", "(none)"], wanted)
    assert found["score"] == pytest.approx(100 * 2 * 1 / (2 + 3))  # P 1/2, R 1/3
    assert found["accuracy"] == 40.0
    assert found["macro_f1"] == pytest.approx(100 * (2 * 1 / (2 + 2) + 0) / 2)
    assert relations.score(["a", "b"], ["a", "a"])["score"] == 50.0  # without such a label the accuracy
    assert relations.score(["(none)"], ["(none)"]) == {"score": 100.0, "accuracy": 100.0, "macro_f1": 100.0}
    assert relations.score(["a"], ["(none)"])["score"] == 0.0


def test_scores_against_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    drawn = np.random.default_rng(0).choice(["(none)", "a", "b", "c"], size=(2, 200), p=[0.4, 0.3, 0.2, 0.1])
    guesses, truths = drawn.tolist()
    found = relations.score(guesses, truths)
    for average, name in (("micro", "score"), ("macro", "macro_f1")):
        wanted = metrics.f1_score(truths, guesses, labels=["a", "b", "c"], average=average)
        assert found[name] == pytest.approx(100 * wanted)


def test_a_dry_run_shows_the_markers(tokenizer: Any) -> None:
    said = preview.describe(settings(), spanned.RELATIONS[0], tokenizer, KNOWN)
    assert said == [
        "14 tokens: [CLS]|[E1]|anna|[/E1]|of|[E2]|acme|[/E2]|met|the|mayor|of|paris|[SEP]",
        "labels: works_for (of 2)",
    ]
