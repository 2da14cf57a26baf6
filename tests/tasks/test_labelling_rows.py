"""Labelled examples as rows on storage, and what is refused because it could not be learnt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta import recipe as recipes
from manta.artifact import Resolved
from manta.data.shards import load_index, read_rows
from manta.errors import InputError
from manta.evaluate import run as evaluation
from manta.progress import Progress
from manta.schema import EvaluateRecipe, FinetuneRecipe
from manta.storage import Folder
from manta.tasks import labels
from manta.tasks.encoding import rows
from manta.train.objective import objective_of
from tests.tasks import labelled

BERT, LLAMA = {"model_type": "bert"}, {"model_type": "llama"}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled.bert(tmp_path_factory.mktemp("bert"))


def recipe(data: dict[str, Any] | None = None, **task: Any) -> FinetuneRecipe:
    made = recipes.validate(
        {
            "kind": "finetune", "name": "t", "data": {"examples": "./x", "validation": "./y", **(data or {})},
            "model": {"source": "./m"}, "task": {"name": "classification", **task}, "batch": {"samples": 2},
            "stop": {"steps": 1},
        }
    )  # fmt: skip
    assert isinstance(made, FinetuneRecipe)
    return made


def inputs(folder: Path, model: Path, train: list[Any], validation: list[Any]) -> dict[str, Resolved]:
    found = {"model.source": Resolved("model.source", "m", "directory", str(model), "", "")}
    for name, examples in (("data.examples", train), ("data.validation", validation)):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(example) + "\n" for example in examples))
        found[name] = Resolved(name, str(file), "file", str(file), "", "")
    return found


def written(folder: Path, model: Path, made: FinetuneRecipe, train: list[Any], validation: list[Any]) -> Folder:
    place = Folder(folder / "rows")
    rows.write(made, inputs(folder, model, train, validation), model, place, Progress(quiet=True))
    return place


def columns(place: Folder, split: str = "train") -> dict[str, Any]:
    return {name: read_rows(place, f"{split}/00000.parquet", name) for name in load_index(place).columns}


def test_rows_of_classification(bert: Path, tmp_path: Path) -> None:
    place = written(tmp_path, bert, recipe(), labelled.PAIRS, labelled.PAIRS[:3])
    found = columns(place)
    assert set(found) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    assert found["labels"].shape == (10,) and found["labels"].tolist() == [1, 0] * 5  # other, same
    assert found["input_ids"].shape == found["token_type_ids"].shape == (10, load_index(place).seq_len)
    assert ((found["input_ids"] != load_index(place).pad_id) == (found["attention_mask"] == 1)).all()
    assert found["token_type_ids"].max() == 1 and (found["token_type_ids"] * (1 - found["attention_mask"])).max() == 0
    assert labels.load(place).names == ("other", "same") and load_index(place).rows("validation") == 3


def test_rows_of_several_labels_and_of_tags(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    several = written(tmp_path / "a", bert, recipe(several=True), labelled.TOPICS, labelled.TOPICS[:2])
    assert columns(several)["labels"][:6].tolist() == [[0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1], [0, 0, 0]]
    assert labels.load(several).counts == (4, 4, 4)
    tagged = written(tmp_path / "b", bert, recipe(name="tagging"), labelled.ENTITIES, labelled.ENTITIES[:2])
    found = columns(tagged)["labels"]
    assert found.shape == (10, load_index(tagged).seq_len)
    assert [row[row != -100].tolist() for row in found[:2]] == [[1, 3, 3, 0], [1, 3, 3, 0, 2]]
    assert (found[columns(tagged)["attention_mask"] == 0] == -100).all()


def test_the_same_examples_give_the_same_rows(bert: Path, tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        place = written(tmp_path / name, bert, recipe(several=True), labelled.TOPICS, labelled.TOPICS[:2])
        found.append({file: place.file_sha256(file) for file in place.files()})
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("train", "validation", "task", "says"),
    [
        (labelled.SENTIMENTS[:5], labelled.SENTIMENTS[3:4], {}, "have only the label 'positive', so there is nothing to tell apart"),
        (labelled.SENTIMENTS, [{"text": "so so", "label": "neutral"}], {}, "'neutral': so so"),
        (labelled.ENTITIES, [{"tokens": ["acme"], "tags": ["B-ORG"]}], {"name": "tagging"}, "'B-ORG': acme"),
        (labelled.ENTITIES, labelled.ENTITIES[:1], {"name": "tagging", "max_tokens": 5}, "no training row has the labels 'B-LOC', 'I-LOC'"),
        ([{"text": f"film {n}", "labels": []} for n in range(3)], labelled.TOPICS[5:6], {"several": True}, "have no labels"),
    ],
    ids=["one", "unknown", "unknown_tag", "cut_off", "none"],
)  # fmt: skip
def test_what_cannot_be_learnt_is_refused(
    train: list[Any], validation: list[Any], task: dict[str, Any], says: str, bert: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        written(tmp_path, bert, recipe(**task), train, validation)
    assert not (tmp_path / "rows" / "shards.json").exists()


def test_a_text_longer_than_the_model_names_the_setting(bert: Path, tmp_path: Path) -> None:
    long = [{"text": "film " * 80 + word, "label": word} for word in ("good", "bad")]
    with pytest.raises(
        InputError, match=r"task.max_tokens = 256: the longest example has \d+ tokens, the model takes 64"
    ):
        written(tmp_path, bert, recipe(), long, long[:1])


def test_a_classifier_needs_no_chat_template(bert: Path, tmp_path: Path) -> None:
    other = [{"text": "a good day", "label": "positive"}]
    rows.check(recipe(), inputs(tmp_path, bert, labelled.SENTIMENTS, other))
    with pytest.raises(InputError, match="'neutral': so so"):
        rows.check(recipe(), inputs(tmp_path, bert, labelled.SENTIMENTS, [{"text": "so so", "label": "neutral"}]))


# --- which objective -------------------------------------------------------------------------------------------------


def test_the_objective_follows_from_task_and_model() -> None:
    known = labels.Labels(("a", "b"), (3, 1), "single_label_classification")
    assert objective_of(recipe(), BERT).model_dump() == {"name": "sequence_labels", "several": False, "weights": None}
    assert objective_of(recipe(), LLAMA, known).model_dump()["weights"] is None
    weighted = objective_of(recipe(class_weights="balanced"), BERT, known).model_dump()
    assert weighted["weights"] == pytest.approx([4 / 6, 2.0])
    assert objective_of(recipe(several=True), BERT).model_dump()["several"] is True
    assert objective_of(recipe(name="tagging"), BERT).name == "token_labels"
    assert objective_of(recipe(name="chat"), LLAMA).name == "clm"


@pytest.mark.parametrize(
    ("task", "config", "says"),
    [
        ("tagging", LLAMA, "is of type 'llama', a decoder, and task.name = 'tagging' is taught to an encoder, such as one of type bert"),
        ("chat", BERT, "is of type 'bert', an encoder, and task.name = 'chat' is taught to a decoder"),
        ("classification", {"model_type": "t5"}, "an encoder with a decoder, and task.name = 'classification' is taught to"),
        ("classification", {"model_type": "lstm"}, "of type 'lstm'.*a head for labels of texts, goes on models of type llama, gpt2, bert"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_taught_the_task_is_refused(task: str, config: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        objective_of(recipe(name=task), config)


def test_weights_and_several_labels_do_not_go_together() -> None:
    with pytest.raises(InputError, match="set class_weights=none"):
        recipe(several=True, class_weights="balanced")


# --- evaluate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "data", "says"),
    [
        ({}, {}, "evaluate.engine = 'vllm' writes text.*set evaluate.engine=transformers"),
        ({"engine": "transformers"}, {"shards": "s"}, "it has no perplexity: set data.shards=null evaluate.perplexity_rows=0"),
        ({"engine": "transformers"}, {}, "evaluate.perplexity_rows=0 to skip perplexity"),
    ],
)  # fmt: skip
def test_what_a_head_cannot_be_asked_is_refused(given: dict[str, Any], data: dict[str, Any], says: str) -> None:
    made = recipes.validate(
        {
            "kind": "evaluate", "name": "e", "model": {"source": "m"}, "data": {"examples": "./x", **data},
            "evaluate": {"task": {"name": "classification"}, **given},
        }
    )  # fmt: skip
    assert isinstance(made, EvaluateRecipe)
    with pytest.raises(InputError, match=says):
        evaluation.check(made, {})


def test_stacking_pads_what_lies_along_the_row_alone() -> None:
    some = [labels.Row({"input_ids": [5, 6], "labels": 1}, False), labels.Row({"input_ids": [7], "labels": 0}, False)]
    found = rows.stacked(some, 3, {"input_ids": 9})
    assert found["input_ids"].tolist() == [[5, 6, 9], [7, 9, 9]] and found["labels"].tolist() == [1, 0]
    assert all(values.dtype == np.int32 for values in found.values())
