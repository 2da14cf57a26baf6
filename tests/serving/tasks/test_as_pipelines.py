"""What each task answers, against Transformers' own pipeline of the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.serving.tasks import tiny
from tests.serving.tasks.tiny import TEXTS, ask, refused


def near(found: Any, wanted: Any) -> None:
    """The same, scores within 1e-5."""
    if isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            near(one, other)
        return
    assert {key: value for key, value in found.items() if key != "score"} == {
        key: value for key, value in wanted.items() if key != "score"
    }
    assert found["score"] == pytest.approx(float(wanted["score"]), abs=1e-5)


def pipeline(task: str, folder: Path) -> Any:
    return transformers.pipeline(task, model=str(folder), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.bert(tmp_path_factory.mktemp("m") / "judge", "BertForSequenceClassification", **tiny.LABELS)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.bert(tmp_path_factory.mktemp("m") / "tagger", "BertForTokenClassification", **tiny.TAGGED)


@pytest.fixture(scope="module")
def filler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.bert(tmp_path_factory.mktemp("m") / "filler", "BertForMaskedLM")


# --- text-classification ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"top_k": 2}, {"function_to_apply": "sigmoid"}, {"function_to_apply": "none"}])
def test_classification(judge: Path, given: dict[str, Any]) -> None:
    app = tiny.app(judge, "text-classification")
    wanted = pipeline("text-classification", judge)(TEXTS, **{"top_k": None, **given})
    near(ask(app, "text-classification", TEXTS, **given), wanted)
    near(ask(app, "text-classification", TEXTS[0], **given), [wanted[0]])
    assert len({answer[0]["label"] for answer in wanted}) > 1, "all texts alike: the test tells nothing"


def test_linear_layers_are_packed_where_they_have_a_bias(judge: Path, filler: Path) -> None:
    import torch

    for folder in (judge, filler):
        found = tiny.app(folder, "text-classification").model.network
        plain = [name for name, module in found.named_modules() if type(module) is torch.nn.Linear]
        assert not plain
    assert any(type(module).__name__ == "Packed" for module in found.modules())


def test_a_pair_of_texts(judge: Path) -> None:
    pair = {"text": "a good film", "text_pair": "a bad film"}
    [found] = ask(tiny.app(judge, "text-classification"), "text-classification", pair)
    near(found, pipeline("text-classification", judge)(pair, top_k=None))


def test_any_number_of_labels(tmp_path: Path) -> None:
    folder = tiny.bert(
        tmp_path, "BertForSequenceClassification", **tiny.LABELS, problem_type="multi_label_classification"
    )
    found = ask(tiny.app(folder, "text-classification"), "text-classification", TEXTS)
    near(found, pipeline("text-classification", folder)(TEXTS, top_k=None))
    assert sum(label["score"] for label in found[0]) != pytest.approx(1.0)


def test_a_classifier_on_a_decoder(tmp_path: Path) -> None:
    """Rows of a batch are of unlike length: each is judged at its own last token."""
    import torch

    from manta.data import tokenizer

    tokenizer.train(iter(TEXTS * 3), 300, tmp_path)
    found = transformers.AutoTokenizer.from_pretrained(tmp_path)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(found), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=128, initializer_range=tiny.SPREAD, pad_token_id=found.pad_token_id, **tiny.LABELS,
    )  # fmt: skip
    transformers.LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    told = ask(tiny.app(tmp_path, "text-classification"), "text-classification", TEXTS)
    near(told, pipeline("text-classification", tmp_path)(TEXTS, top_k=None))


# --- token-classification --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_tagging(tagger: Path, strategy: str) -> None:
    found = ask(tiny.app(tagger, "token-classification"), "token-classification", TEXTS, aggregation_strategy=strategy)
    wanted = pipeline("token-classification", tagger)(TEXTS, aggregation_strategy=strategy)
    near(found, wanted)
    assert any(wanted)


def test_tagging_ignores_the_labels_that_it_is_told(tagger: Path) -> None:
    app = tiny.app(tagger, "token-classification")
    found = ask(app, "token-classification", TEXTS[3], ignore_labels=["PER"], aggregation_strategy="simple")
    wanted = pipeline("token-classification", tagger)(TEXTS[3], aggregation_strategy="simple", ignore_labels=["PER"])
    near(found, wanted)
    assert {"O"} < {entity["entity_group"] for entity in found} <= {"O", "LOC"}


def test_a_long_text_is_read_in_windows(tagger: Path) -> None:
    text = " ".join(TEXTS * 5)
    app = tiny.app(tagger, "token-classification")
    param, words = refused(app, "token-classification", text)
    assert param == "inputs"
    assert "over the 64 that the model takes" in words and "parameters.stride" in words
    made = pipeline("token-classification", tagger)
    made.tokenizer.model_max_length = 64
    wanted = made(text, aggregation_strategy="first", stride=8)
    near(ask(app, "token-classification", text, aggregation_strategy="first", stride=8), wanted)
    assert wanted[-1]["end"] > 0.9 * len(text)


# --- fill-mask -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"top_k": 2}, {"targets": ["good", "bad", "film"]}, {"targets": "cake"}])
def test_gaps(filler: Path, given: dict[str, Any]) -> None:
    app = tiny.app(filler, "fill-mask")
    texts = ["a [MASK] film", "anna lives in [MASK] , really", "the [MASK] was [MASK]"]
    made = pipeline("fill-mask", filler)
    for text in texts:
        near(ask(app, "fill-mask", text, **given), made(text, **given))
    near(ask(app, "fill-mask", texts, **given), [made(text, **given) for text in texts])


def test_the_head_that_pre_training_leaves_fills_gaps(tmp_path: Path) -> None:
    folder = tiny.bert(tmp_path, "BertForPreTraining")
    [best, *_] = ask(tiny.app(folder, "fill-mask"), "fill-mask", "a [MASK] film")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = tokenizer("a [MASK] film", return_tensors="pt")
    logits = transformers.BertForPreTraining.from_pretrained(folder)(**given).prediction_logits[0, 2].detach()
    assert best["token"] == int(logits.argmax())
    assert best["score"] == pytest.approx(float(logits.softmax(-1).max()), abs=1e-5)


@pytest.mark.parametrize(
    ("inputs", "given", "param", "words"),
    [
        ("no gap", {}, "inputs", r"has no gap: write \[MASK\]"),
        (["a [MASK]", "none"], {}, "inputs[1]", "has no gap"),
        ("a [MASK]", {"targets": ["good film"]}, "parameters.targets", "is not one token"),
        ("a [MASK]", {"targets": []}, "parameters.targets", "0 items"),
        ("a [MASK]", {"top_k": 0}, "parameters.top_k", "greater than 0"),
    ],
)
def test_what_no_gap_can_be_filled_with(filler: Path, inputs: Any, given: Any, param: str, words: str) -> None:
    import re

    found, said = refused(tiny.app(filler, "fill-mask"), "fill-mask", inputs, **given)
    assert found == param
    assert re.search(words, said)


def test_answers_are_what_hugging_faces_client_reads(judge: Path, tagger: Path, filler: Path) -> None:
    import huggingface_hub as hub

    judged = ask(tiny.app(judge, "text-classification"), "text-classification", TEXTS[0])
    read: Any = hub.TextClassificationOutputElement.parse_obj_as_list(judged)
    assert [one.label for one in read[0]] == [one["label"] for one in judged[0]]
    filled = ask(tiny.app(filler, "fill-mask"), "fill-mask", "a [MASK] film")
    assert hub.FillMaskOutputElement.parse_obj_as_list(filled)[0].token == filled[0]["token"]
    found = ask(tiny.app(tagger, "token-classification"), "token-classification", TEXTS[1])
    assert hub.TokenClassificationOutputElement.parse_obj_as_list(found)[0].start == found[0]["start"]


# --- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "inputs", "is missing"),
        ({"inputs": ""}, "inputs", "is empty"),
        ({"inputs": []}, "inputs", "0 items"),
        ({"inputs": ["a", 7]}, "inputs[1]", "is not a text"),
        ({"inputs": "a", "input": 1}, "input", "did you mean `inputs`"),
        ({"inputs": "a", "parameters": {"topk": 1}}, "parameters.topk", "did you mean `top_k`"),
        ({"inputs": "a", "parameters": {"top_k": "1"}}, "parameters.top_k", "integer"),
        ({"inputs": "a", "parameters": []}, "parameters", "not a JSON object"),
        ({"inputs": "a", "parameters": 3}, "parameters", "not a JSON object"),
        ({"inputs": {"text": "a", "pair": "b"}}, "inputs.pair", "Unknown field"),
        ({"inputs": "good " * 100}, "inputs", "has 102 tokens, over the 64"),
        ({"inputs": "\ud800"}, "inputs", "surrogate"),
    ],
)
def test_what_is_wrong_is_told_with_its_field(judge: Path, body: Any, param: str, words: str) -> None:
    answer = tiny.post(tiny.app(judge, "text-classification"), "text-classification", body)
    assert answer.status_code == 400
    assert (answer.json()["error"]["param"], words in answer.json()["error"]["message"]) == (param, True), answer.text


def test_what_is_too_long_is_cut_where_that_is_asked(judge: Path) -> None:
    app = tiny.app(judge, "text-classification")
    cut = ask(app, "text-classification", "good " * 100, truncation=True)
    near(cut, [pipeline("text-classification", judge)("good " * 62, top_k=None)])
    param, words = refused(tiny.app(judge, "text-classification", max_prompt_tokens=5), "text-classification", TEXTS[3])
    assert (param, "over the 5 that the endpoint lets through" in words) == ("inputs", True)
