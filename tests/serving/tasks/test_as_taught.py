"""Tasks that Transformers has no pipeline for answer as `manta.tasks` reads the same model; vectors and int8 as well."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from manta.compress import dynamic
from manta.objectives.contrast import vectors
from manta.sections.compress import Dynamic
from manta.sections.tasks import AnsweringTask, RelationsTask, SummarisationTask, TranslationTask
from manta.tasks import answering, relations, summarisation, translation
from manta.tasks.encoding import seq2seq
from manta.tasks.labels import Labels, store_input_names, tokenizer
from manta.tasks.scoring import generation
from serving.tasks import question_answering
from serving.tasks.model import Row
from tests.serving.tasks import tiny
from tests.serving.tasks.tiny import TEXTS, ask, refused, talk
from tests.tasks import paired, spanned

ANSWERS = AnsweringTask(name="answering", max_tokens=32, stride=8, max_answer_tokens=6)
LONG = " ".join(example["context"] for example in spanned.QUESTIONS[::2])


def spread(folder: Path, head: str, **given: Any) -> Path:
    """A tiny BERT that knows the words of the questions and relations, with another head."""
    spanned.bert(folder, spanned.texts([*spanned.QUESTIONS, *spanned.RELATIONS]), initializer_range=tiny.SPREAD)
    found = transformers.AutoTokenizer.from_pretrained(folder)
    if head == "BertForSequenceClassification":
        found.add_tokens(list(relations.TOKENS), special_tokens=True)
        found.save_pretrained(folder)
    config = transformers.BertConfig.from_pretrained(folder, **given)
    config.vocab_size = len(found)
    torch.manual_seed(1)
    getattr(transformers, head)(config).save_pretrained(folder)
    store_input_names(folder)
    return folder


# --- question-answering ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spread(tmp_path_factory.mktemp("m") / "reader", "BertForQuestionAnswering")


@pytest.mark.parametrize("threshold", [None, 0.0, -3.0])
def test_answers_are_those_of_evaluation(reader: Path, threshold: float | None) -> None:
    settings = ANSWERS.model_copy(update={"null_threshold": threshold})
    app = tiny.app(reader, "question-answering", taught=settings.model_dump())
    asked = [{"question": "who sold it ?", "context": context} for context in (LONG, spanned.QUESTIONS[0]["context"])]
    network = transformers.BertForQuestionAnswering.from_pretrained(reader).eval()
    reading = tokenizer(reader)
    for question in asked:
        rows = answering.encode(question, reading, settings, Labels((), ()))
        found = []
        for row in rows:
            given = {name: torch.tensor([row.columns[name]]) for name in reading.model_input_names}
            with torch.no_grad():
                out = network(**given)
            logits = torch.stack([out.start_logits, out.end_logits], 1).numpy()
            columns = {name: np.array([row.columns[name]]) for name in ("begins", "ends", "none", "window")}
            found += answering.decode(logits, columns, Labels((), ()), settings)
        [wanted], [[sure]] = answering.joined(found, [question["context"]], settings)
        told = ask(app, "question-answering", question)
        assert told["answer"] == wanted == question["context"][told["start"] : told["end"]]
        assert told["score"] == pytest.approx(sure, abs=1e-5)
    assert len(answering.encode(asked[0], reading, settings, Labels((), ()))) > 1
    both = ask(app, "question-answering", asked)
    assert [one["answer"] for one in both] == [ask(app, "question-answering", one)["answer"] for one in asked]


def test_more_answers_than_one(reader: Path) -> None:
    app = tiny.app(reader, "question-answering", taught=ANSWERS.model_dump())
    asked = {"question": "who sold it ?", "context": LONG}
    told = ask(app, "question-answering", asked, top_k=5)
    assert told[0] == ask(app, "question-answering", asked)
    scores = [one["score"] for one in told]
    assert scores == sorted(scores, reverse=True) and len({(one["start"], one["end"]) for one in told}) == 5
    assert ask(app, "question-answering", asked, handle_impossible_answer=False, max_answer_len=1)["answer"].split()


def test_that_there_is_none_may_be_any_of_several_answers() -> None:
    notes = {"begins": [-1, -1, 0, 3], "ends": [-1, -1, 2, 5], "none": 0}
    row = Row({"input_ids": [1, 2, 3, 4]}, notes)
    logits = np.array([[2.0, 9.0, 1.0, 0.0], [2.0, 9.0, 1.0, 0.0]])
    settings = ANSWERS.model_copy(update={"null_threshold": 0.0})
    [none, one, *_] = question_answering.best([row], [logits], settings, 3)
    assert none[:2] == (0, 0) and one[:2] == (0, 2)
    assert none[2] / one[2] == pytest.approx(np.exp(2.0))


@pytest.mark.parametrize(
    ("inputs", "given", "param"),
    [
        ("a question", {}, "inputs"),
        ({"question": "who ?"}, {}, "inputs.context"),
        ({"question": "who ?", "context": " "}, {}, "inputs.context"),
        ({"question": "who sold it ? " * 9, "context": LONG}, {}, "inputs.question"),
        ({"question": "who ?", "context": LONG}, {"max_seq_len": 1000}, "parameters.max_seq_len"),
        ({"question": "who ?", "context": LONG}, {"max_seq_len": 20, "doc_stride": 20}, "parameters.doc_stride"),
    ],
)
def test_questions_that_are_refused(reader: Path, inputs: Any, given: Any, param: str) -> None:
    app = tiny.app(reader, "question-answering", taught=ANSWERS.model_dump())
    assert refused(app, "question-answering", inputs, **given)[0] == param


# --- relation-extraction ---------------------------------------------------------------------------------------------


def test_relations(tmp_path: Path) -> None:
    folder = spread(tmp_path, "BertForSequenceClassification", **tiny.LABELS)
    app = tiny.app(folder, "relation-extraction", taught={"name": "relations", "max_tokens": 32})
    asked = [{name: example[name] for name in ("text", "head", "tail")} for example in spanned.RELATIONS[:4]]
    network = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    settings = RelationsTask(name="relations", max_tokens=32)
    told = ask(app, "relation-extraction", asked)
    for example, answer in zip(asked, told, strict=True):
        columns = relations.encode(example, tokenizer(folder), settings, Labels((), ())).columns
        given = {name: torch.tensor([values]) for name, values in columns.items() if name != "labels"}
        with torch.no_grad():
            wanted = torch.softmax(network(**given).logits[0], -1)
        assert {one["label"]: one["score"] for one in answer} == pytest.approx(
            {tiny.LABELS["id2label"][place]: float(value) for place, value in enumerate(wanted)}, abs=1e-5
        )
    assert [one["label"] for one in ask(app, "relation-extraction", asked[0])] == [one["label"] for one in told[0]]
    assert refused(app, "relation-extraction", {"text": "a b", "head": [0, 1], "tail": [2, 9]})[0] == "inputs"
    far = {"text": f"anna {'of acme ' * 40} paris", "head": [0, 4], "tail": [326, 331]}
    assert "further apart" in refused(app, "relation-extraction", far)[1]


# --- translation, summarization --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["t5", "bart"])
def writer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = getattr(paired, request.param)(tmp_path_factory.mktemp("m") / request.param)
    network = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    torch.manual_seed(4)
    for parameter in network.parameters():  # a new model says the same to everything
        parameter.data += 0.3 * torch.randn_like(parameter)
    network.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("task", ["translation", "summarization"])
def test_what_is_written_is_what_evaluation_gets(writer: Path, task: str) -> None:
    settings: Any = SummarisationTask(name="summarisation", max_target_tokens=8, max_input_tokens=64)
    module: Any = summarisation
    if task == "translation":
        given = {"source_language": "English", "target_language": "German", "max_target_tokens": 8}
        settings, module = TranslationTask(name="translation", **given), translation
    app = tiny.app(writer, task, taught=settings.model_dump())
    network, reading = app.model.network, app.model.tokenizer
    rows = [seq2seq.question({"input": text}, reading, settings, app.model.config, module)[0] for text in TEXTS[:3]]
    written = generation.answers(network, rows, app.model.pad_id, 9, 1)
    wanted = [module.decode(reading.decode(ids, skip_special_tokens=True)) for ids in written]
    assert len(set(wanted)) > 1
    name = {"translation": "translation_text", "summarization": "summary_text"}[task]
    assert ask(app, task, TEXTS[:3]) == [{name: text} for text in wanted]
    assert ask(app, task, TEXTS[0]) == [{name: wanted[0]}], "also a single answer stands in a list"
    short = ask(app, task, TEXTS[0], max_new_tokens=2, num_beams=2)
    assert short == ask(app, task, TEXTS[0], generate_parameters={"max_new_tokens": 2, "num_beams": 2})
    assert short != ask(app, task, TEXTS[0])


def test_the_languages_are_those_that_were_taught(writer: Path) -> None:
    taught = TranslationTask(name="translation", source_language="English", target_language="German").model_dump()
    app = tiny.app(writer, "translation", taught=taught)
    ask(app, "translation", TEXTS[0], src_lang="English", max_new_tokens=1)
    param, words = refused(app, "translation", TEXTS[0], tgt_lang="French")
    assert (param, "'German' alone" in words) == ("parameters.tgt_lang", True)


def test_long_texts_are_refused_or_cut(writer: Path) -> None:
    app = tiny.app(writer, "summarization", max_model_len=12)
    param, words = refused(app, "summarization", TEXTS[3])
    assert (param, "over the 12" in words) == ("inputs", True)
    assert ask(app, "summarization", TEXTS[3], truncation="longest_first", max_new_tokens=2)


# --- vectors ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.bert(tmp_path_factory.mktemp("m") / "encoder", "BertModel")


def embed(app: Any, body: dict[str, Any]) -> Any:
    return talk(app, lambda client: client.post("/v1/embeddings", json=body))


def test_vectors_are_those_of_training(encoder: Path) -> None:
    app = tiny.app(encoder, "feature-extraction")
    given = app.model.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = vectors(transformers.BertModel.from_pretrained(encoder).eval(), given).numpy()
    told = embed(app, {"model": "tiny", "input": TEXTS}).json()
    assert np.array([one["embedding"] for one in told["data"]]) == pytest.approx(wanted, abs=1e-5)
    assert told["usage"]["prompt_tokens"] == told["usage"]["total_tokens"] == int(given["attention_mask"].sum())
    packed = embed(app, {"input": TEXTS[1], "encoding_format": "base64"}).json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4") == pytest.approx(wanted[1], abs=1e-5)
    ids = app.model.tokenizer(TEXTS[1])["input_ids"]
    assert embed(app, {"input": ids}).json()["data"][0]["embedding"] == pytest.approx(wanted[1], abs=1e-5)
    assert ask(app, "feature-extraction", TEXTS[1]) == pytest.approx(wanted[1], abs=1e-5)
    long = ask(app, "feature-extraction", TEXTS[1], normalize=False)
    assert np.linalg.norm(long) > 1.1


@pytest.mark.parametrize("pooling", ["cls_token", "max_tokens", "lasttoken"])
def test_the_directory_says_how_vectors_are_made(encoder: Path, tmp_path: Path, pooling: str) -> None:
    import shutil

    folder = Path(shutil.copytree(encoder, tmp_path / "m"))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Pooling"}]))
    app = tiny.app(folder, "feature-extraction")
    with torch.no_grad():
        given = app.model.tokenizer(TEXTS[1], return_tensors="pt")
        states = app.model.network(**given).last_hidden_state[0]
    wanted = {"cls_token": states[0], "lasttoken": states[-1], "max_tokens": states.amax(0)}[pooling]
    assert ask(app, "feature-extraction", TEXTS)[1] == pytest.approx(wanted.numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": [10**6]}, "input"),
        ({"input": "a", "dimensions": 8}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"inputs": "a"}, "input"),
        ({"input": "cake " * 100}, "input"),
    ],
)
def test_embeddings_that_are_refused(encoder: Path, body: Any, param: str) -> None:
    answer = embed(tiny.app(encoder, "feature-extraction"), body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


# --- int8 ------------------------------------------------------------------------------------------------------------


def test_an_int8_model_answers_as_its_floats_do(tmp_path: Path) -> None:
    base = tiny.bert(tmp_path / "base", "BertForSequenceClassification", **tiny.LABELS)
    small = tmp_path / "small"
    small.mkdir()
    dynamic.apply(base, small, Dynamic(), None, lambda *_: None)
    floats, ints = (
        ask(tiny.app(folder, "text-classification"), "text-classification", TEXTS) for folder in (base, small)
    )
    app = tiny.app(small, "text-classification")
    assert any("quantized" in type(module).__module__ for module in app.model.network.modules())
    near = [{one["label"]: one["score"] for one in side} for side in floats]
    for told, wanted in zip(ints, near, strict=True):
        assert {one["label"]: one["score"] for one in told} == pytest.approx(wanted, abs=0.15)
        assert {one["label"]: one["score"] for one in told} != wanted
