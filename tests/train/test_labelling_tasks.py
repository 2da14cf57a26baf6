"""Heads learn ten examples by heart under DeepSpeed, by every way of adapting; what is exported says what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manta.train import validation
from tests.tasks import labelled
from tests.train.in_process import Trained, asked, inputs_of, job_of, train
from tests.train.under_deepspeed import lone_process

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with lone_process(tmp_path_factory.mktemp("group")):
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {"bert": labelled.bert(folder / "bert"), "llama": labelled.llama(folder / "llama")}


def predictions(task: dict[str, Any], examples: list[dict[str, Any]], trained: Trained, folder: Path) -> list[Any]:
    outcome = asked(task, examples, trained.model, folder)
    assert outcome["references"] == [reference_of(example) for example in examples]
    return list(outcome["predictions"])


def reference_of(example: dict[str, Any]) -> Any:
    return next(sorted(value) if name == "labels" else value for name, value in example.items() if name in ("label", "labels", "tags"))  # fmt: skip


ONE, SEVERAL, TAGS = {"name": "classification"}, {"name": "classification", "several": True}, {"name": "tagging"}
BALANCED = {"name": "classification", "class_weights": "balanced"}


@pytest.mark.parametrize(
    ("family", "task", "examples"),
    [
        ("bert", ONE, labelled.SENTIMENTS),
        ("bert", BALANCED, labelled.SENTIMENTS[:8]),
        ("bert", ONE, labelled.PAIRS),
        ("bert", SEVERAL, labelled.TOPICS),
        ("bert", TAGS, labelled.ENTITIES),
        ("llama", ONE, labelled.SENTIMENTS),
    ],
    ids=["one", "balanced", "pairs", "several", "tags", "decoder"],
)
def test_ten_examples_are_learnt_by_heart(
    family: str, task: dict[str, Any], examples: list[dict[str, Any]], models: dict[str, Path], tmp_path: Path
) -> None:
    done = train(task, examples, models[family], tmp_path)
    assert done.figures["score"] == 100.0 and done.figures["rows"] == len(examples), done.losses[-1]
    assert done.losses[-1] < 0.2 * done.losses[0] and "perplexity" not in done.figures
    assert predictions(task, examples, done, tmp_path) == [reference_of(example) for example in examples]
    config = json.loads((done.model / "config.json").read_text())
    assert done.job.labels is not None
    assert (
        tuple(config["id2label"][str(number)] for number in range(len(done.job.labels.names))) == done.job.labels.names
    )
    if task is ONE and examples is labelled.SENTIMENTS:
        assert done.losses[0] == pytest.approx(np.log(2), abs=0.05), "it begins by guessing"


def test_transformers_pipelines_say_the_same(models: dict[str, Path], tmp_path: Path) -> None:
    """The exported directories by themselves: labels with their names, and the types of a pair's tokens are given."""
    from transformers import pipeline

    for name, task, examples in (("one", ONE, labelled.SENTIMENTS), ("pairs", ONE, labelled.PAIRS)):
        (tmp_path / name).mkdir()
        done = train(task, examples, models["bert"], tmp_path / name)
        ask = pipeline("text-classification", model=str(done.model), device="cpu")
        asked = [{key: value for key, value in example.items() if key != "label"} for example in examples]
        found = [ask(question) for question in asked]
        said = [each[0]["label"] if isinstance(each, list) else each["label"] for each in found]
        assert said == [example["label"] for example in examples]
        given = ask.tokenizer("a", "b")
        assert list(given["token_type_ids"]) == [0, 0, 0, 1, 1]
    (tmp_path / "tags").mkdir()
    done = train(TAGS, labelled.ENTITIES, models["bert"], tmp_path / "tags")
    tagger = pipeline("token-classification", model=str(done.model), device="cpu", aggregation_strategy="first")
    found = [(each["word"], each["entity_group"]) for each in tagger("clara lives in new york")]
    assert found == [("clara", "PER"), ("new york", "LOC")]


def test_a_decoders_pipeline_says_the_same(models: dict[str, Path], tmp_path: Path) -> None:
    from transformers import pipeline

    done = train(ONE, labelled.SENTIMENTS, models["llama"], tmp_path)
    ask = pipeline("text-classification", model=str(done.model), device="cpu")
    texts = [example["text"] for example in labelled.SENTIMENTS]
    assert [each["label"] for each in ask(texts, batch_size=4)] == [each["label"] for each in labelled.SENTIMENTS]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_freezing_leaves_all_but_the_head_to_the_bit(family: str, models: dict[str, Path], tmp_path: Path) -> None:
    adapt = {"method": "freeze", "freeze_layers": "all"}
    done = train(ONE, labelled.SENTIMENTS, models[family], tmp_path, adapt=adapt)
    moved = {name for name in done.after if not torch.equal(done.before[name], done.after[name])}
    assert moved and all(name.split(".")[0] in ("classifier", "score") or "pooler" in name for name in moved)
    assert done.losses[-1] < done.losses[0]


@pytest.mark.parametrize(("family", "task"), [("bert", ONE), ("bert", TAGS), ("llama", ONE)])
def test_low_rank_updates_learn_a_head_beside_them(
    family: str, task: dict[str, Any], models: dict[str, Path], tmp_path: Path
) -> None:
    """The base stays, the new head moves and is part of the adapter and of the merged model."""
    examples = labelled.ENTITIES if task is TAGS else labelled.SENTIMENTS
    done = train(task, examples, models[family], tmp_path, adapt={"method": "lora", "rank": 4}, optimizer={"lr": 2e-2, "precision": "fp32"})  # fmt: skip
    moved = {name for name in done.after if not torch.equal(done.before[name], done.after[name])}
    assert moved and all("lora_" in name or "modules_to_save" in name for name in moved)
    assert done.figures["score"] == 100.0
    assert predictions(task, examples, done, tmp_path) == [reference_of(example) for example in examples]
    assert (tmp_path / "out/adapter/adapter_model.safetensors").exists()


def test_each_validation_row_is_scored_by_one_rank_alone(models: dict[str, Path], tmp_path: Path) -> None:
    """Of five rows the first of two ranks has three; the other has two, and one that is not scored."""
    inputs = inputs_of(labelled.SENTIMENTS, models["bert"], tmp_path, labelled.SENTIMENTS[3:8])
    job = job_of(ONE, inputs, tmp_path, resources={"workers": 2, "micro_batch": 5})
    found = [validation.rows_of(job, rank) for rank in (0, 1)]
    assert [rows["labels"].tolist() for rows in found] == [[1, 1, 0], [0, 0, -100]]
    judges = [validation.Judge(job, rank) for rank in (0, 1)]
    assert [judge.mine for judge in judges] == [3, 2]
    with pytest.raises(RuntimeError, match="3 of 5 validation rows were scored"):
        judges[0].figures([torch.zeros(3, 2)], found[0])


def test_a_head_that_tells_other_labels_apart_is_left_behind(models: dict[str, Path], tmp_path: Path) -> None:
    """A classifier taught further keeps its head for the same labels, and gets a new one for as many others."""
    from manta.models.load import load

    (tmp_path / "first").mkdir()
    done = train(ONE, labelled.SENTIMENTS, models["bert"], tmp_path / "first")
    assert done.job.labels is not None
    said: list[str] = []
    again = load(done.model, "fp32", "sequence_labels", 0, said.append, done.job.labels.config())
    assert not said and torch.equal(again.classifier.weight, done.after["classifier.weight"])
    other = {**done.job.labels.config(), "id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    for head in (other, {**other, "id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}):
        said.clear()
        fresh = load(done.model, "fp32", "sequence_labels", 0, said.append, head)
        assert len(said) == 1 and "classifier.weight" in said[0]
        assert fresh.classifier.weight.shape[0] == len(head["id2label"])
        assert not torch.equal(fresh.classifier.weight[:2], again.classifier.weight)
        assert torch.equal(fresh.bert.embeddings.word_embeddings.weight, again.bert.embeddings.word_embeddings.weight)
