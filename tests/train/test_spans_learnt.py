"""Relations and answers learnt by heart under DeepSpeed; the exported directories, by themselves, say what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manta.tasks import WINDOWED
from manta.tasks.encoding.markers import MARKERS, marked
from manta.tasks.labels import ENDS, head_of
from manta.train import validation
from manta.train.job import model_of
from tests.tasks import labelled, spanned
from tests.train.in_process import asked, inputs_of, job_of, train
from tests.train.under_deepspeed import lone_process

pytestmark = pytest.mark.integration
RELATIONS = {"name": "relations", "no_relation": "none"}
# Windows of a few words each, so that every context makes several rows.
ANSWERS = {"name": "answering", "max_tokens": 15, "stride": 5}
SOME = {**ANSWERS, "null_threshold": 0.0}


@pytest.fixture(scope="module", autouse=True)
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with lone_process(tmp_path_factory.mktemp("group")):
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    texts = spanned.texts([*spanned.RELATIONS, *spanned.MISSING])
    return {"bert": spanned.bert(folder / "bert", texts), "llama": labelled.llama(folder / "llama")}


def wanted(task: dict[str, Any], example: dict[str, Any]) -> Any:
    """The right answer, in the form of a prediction."""
    if task["name"] == "relations":
        return "(none)" if example["label"] == task.get("no_relation") else example["label"]
    return example["answers"][0]["text"] if example["answers"] else ""


@pytest.mark.parametrize(
    ("family", "task", "examples"),
    [
        ("bert", RELATIONS, spanned.RELATIONS),
        ("bert", {"name": "relations", "class_weights": "balanced"}, spanned.RELATIONS[:9]),
        ("llama", RELATIONS, spanned.RELATIONS),
        ("bert", ANSWERS, spanned.QUESTIONS),
        ("bert", SOME, spanned.MISSING),
    ],
    ids=["relations", "balanced", "decoder", "answers", "some_missing"],
)
def test_ten_spans_are_learnt_by_heart(
    family: str, task: dict[str, Any], examples: list[dict[str, Any]], models: dict[str, Path], tmp_path: Path
) -> None:
    done = train(task, examples, models[family], tmp_path, batch={"samples": 30}, resources={"micro_batch": 30})
    assert done.figures["score"] == 100.0 and done.figures["rows"] == len(examples), done.losses[-1]
    assert done.losses[-1] < 0.2 * done.losses[0] and "perplexity" not in done.figures
    outcome = asked(task, examples, done.model, tmp_path)
    assert outcome["predictions"] == [wanted(task, example) for example in examples]
    assert all(0.5 < max(each) <= 1.0 for each in outcome["confidence"])
    if task["name"] in WINDOWED:
        assert outcome["references"] == [[answer["text"] for answer in example["answers"]] for example in examples]
        rows = json.loads((tmp_path / "run/work/rows/report.json").read_text())["validation"]["rows"]
        assert rows == 3 * len(examples), "each context is read in three windows"
        config = json.loads((done.model / "config.json").read_text())
        assert config["architectures"] == ["BertForQuestionAnswering"]
        assert config["id2label"] == {"0": "start", "1": "end"}


def test_transformers_alone_says_the_same_relations(models: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    done = train(RELATIONS, spanned.RELATIONS, models["bert"], tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(done.model)
    model = AutoModelForSequenceClassification.from_pretrained(done.model).eval()
    assert model.config.vocab_size == len(tokenizer) == model.get_input_embeddings().num_embeddings
    texts = [marked(example["text"], example["head"], example["tail"]) for example in spanned.RELATIONS]
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    said = [model.config.id2label[int(place)] for place in logits.argmax(1)]
    assert said == [example["label"] for example in spanned.RELATIONS]
    outcome = asked(RELATIONS, spanned.RELATIONS, done.model, tmp_path)
    assert outcome["confidence"] == [pytest.approx(row, abs=2e-5) for row in logits.softmax(1).tolist()]


def test_transformers_alone_says_the_same_answers(models: dict[str, Path], tmp_path: Path) -> None:
    """The recipe of its own guide: overflowing windows, the best sum of logits, the text by the offsets."""
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    done = train(ANSWERS, spanned.QUESTIONS, models["bert"], tmp_path, batch={"samples": 20}, stop={"steps": 25})
    tokenizer = AutoTokenizer.from_pretrained(done.model)
    model = AutoModelForQuestionAnswering.from_pretrained(done.model).eval()
    said = []
    for example in spanned.QUESTIONS:
        given = tokenizer(
            example["question"], example["context"], truncation="only_second", max_length=15, stride=5,
            return_overflowing_tokens=True, return_offsets_mapping=True, padding=True, return_tensors="pt",
        )  # fmt: skip
        with torch.no_grad():
            found = model(**{name: given[name] for name in ("input_ids", "token_type_ids", "attention_mask")})
        best: tuple[float, str] = (-np.inf, "")
        for row, (starts, ends) in enumerate(zip(found.start_logits.tolist(), found.end_logits.tolist(), strict=True)):
            places = [place for place, part in enumerate(given.sequence_ids(row)) if part == 1]
            for first in places:
                for last in places[places.index(first) : places.index(first) + 30]:
                    begin, end = int(given["offset_mapping"][row, first, 0]), int(given["offset_mapping"][row, last, 1])
                    best = max(best, (starts[first] + ends[last], example["context"][begin:end]))
        said.append(best[1])
    assert said == asked(ANSWERS, spanned.QUESTIONS, done.model, tmp_path)["predictions"]


def test_embeddings_grow_by_the_markers_from_the_seed(models: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    inputs = inputs_of(spanned.RELATIONS, models["bert"], tmp_path)
    job = job_of(RELATIONS, inputs, tmp_path)
    said: list[str] = []
    one, other = (model_of(job, said.append).get_input_embeddings().weight for _ in range(2))
    before = load_file(models["bert"] / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(one, other) and len(one) == len(before) + len(MARKERS)
    assert torch.equal(one[: len(before)], before)
    assert 0.005 < float(one[len(before) :].detach().std()) < 0.04
    assert any(f"have {len(one)} rows now" in text for text in said)


def test_validation_ends_with_an_example_and_its_windows_meet_whatever_rank_has_them(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """Of thirty windows four are to be scored: the two behind them belong to the second question as well."""
    inputs = inputs_of(spanned.QUESTIONS, models["bert"], tmp_path)
    job = job_of(ANSWERS, inputs, tmp_path, evaluate={"max_rows": 4}, resources={"workers": 2, "micro_batch": 5})
    found = [validation.rows_of(job, rank) for rank in (0, 1)]
    assert [rows["window"].tolist() for rows in found] == [[0, 1, 2], [0, 1, 2]]
    for max_rows, rows in ((1, 3), (3, 3), (5, 6), (29, 30), (99, 30)):
        job = job_of(ANSWERS, inputs, tmp_path, evaluate={"max_rows": max_rows})
        judge = validation.Judge(job, 0)
        assert judge.rows == judge.mine == rows
    columns = validation.rows_of(job, 0)
    logits = np.random.default_rng(0).normal(size=(30, 2, columns["input_ids"].shape[1])).astype(np.float32)
    parts = [(0, 7), (7, 30)]  # as ranks might have them, in the middle of a question
    said = [
        each
        for first, last in parts
        for each in judge.task.decode(logits[first:last], {name: values[first:last] for name, values in columns.items()}, ENDS, judge.settings)
    ]  # fmt: skip
    whole = judge.task.decode(logits, columns, ENDS, judge.settings)
    assert judge.kept is not None
    assert said == whole and len(judge.task.joined(whole, judge.kept[0], judge.settings)[0]) == 10
    figures = judge.figures([torch.from_numpy(logits)], columns)
    assert figures["rows"] == 10 and 0 <= figures["score"] < 100


def test_a_head_for_answers_is_kept_whatever_its_outputs_are_called() -> None:
    config = {"architectures": ["BertForQuestionAnswering"]}
    assert head_of(ENDS, config) == {}
    named = {**config, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    assert head_of(ENDS, named) == {name: named[name] for name in ("id2label", "label2id")}
    other = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b", "2": "c"}}
    assert head_of(ENDS, other)["id2label"] == {0: "start", 1: "end"}
