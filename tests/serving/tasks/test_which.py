"""Which tasks a model answers, as the endpoint's start sees it: from its artifact's recipe, else from its config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manta import recipe as recipes
from manta.errors import InputError
from serving import launch
from tests.serving.test_launch import make_artifact, make_model, recipe

BERT = {"model_type": "bert"}
T5 = {"model_type": "t5", "is_encoder_decoder": True, "architectures": ["T5ForConditionalGeneration"]}


def prepare(folder: Path, source: str, **model: Any) -> launch.Served:
    made = recipes.resolved(recipe(folder, source))
    [served] = launch.prepare(recipes.validate({**made, "model": {"source": source, **model}})).served
    return served


def directory(folder: Path, config: dict[str, Any]) -> str:
    made = make_model(folder / "m")
    (made / "config.json").write_text(json.dumps(config))
    return str(made)


def tuned(folder: Path, config: dict[str, Any], task: dict[str, Any] | None, name: str = "tuned") -> str:
    """An artifact of fine-tuning for `task`, or of pre-training."""
    make_artifact(folder, name, "finetune" if task else "pretrain")
    _edit(folder / name, {"kind": "finetune", "task": task} if task else {"kind": "pretrain"})
    (folder / name / "model/config.json").write_text(json.dumps(config))
    return name


def _edit(artifact: Path, made: dict[str, Any], inputs: dict[str, Any] | None = None) -> None:
    manifest = json.loads((artifact / "manifest.json").read_text())
    (artifact / "manifest.json").write_text(json.dumps(manifest | {"recipe": made, "inputs": inputs or {}}))


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("BertForSequenceClassification", "text-classification"),
        ("LlamaForSequenceClassification", "text-classification"),
        ("BertForTokenClassification", "token-classification"),
        ("BertForQuestionAnswering", "question-answering"),
        ("RobertaForMaskedLM", "fill-mask"),
        ("BertForPreTraining", "fill-mask"),
        ("BertModel", "feature-extraction"),
        ("LlamaModel", "feature-extraction"),
    ],
)
def test_a_directory_answers_what_its_head_is_for(tmp_path: Path, architecture: str, task: str) -> None:
    served = prepare(tmp_path, directory(tmp_path, {**BERT, "architectures": [architecture]}))
    assert (served.runner, served.tasks, served.taught) == ("transformers", (task,), None)


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "GPT2LMHeadModel", "Qwen2VLForConditionalGeneration"])
def test_decoders_are_vllms(tmp_path: Path, architecture: str) -> None:
    served = prepare(tmp_path, directory(tmp_path, {"model_type": "x", "architectures": [architecture]}))
    assert (served.runner, served.tasks) == ("vllm", ())


@pytest.mark.parametrize(
    ("config", "tasks"),
    [
        (T5, ("translation", "summarization")),
        ({**T5, "model_type": "marian", "architectures": ["MarianMTModel"]}, ("translation",)),
        ({**T5, "model_type": "bart", "architectures": ["BartForConditionalGeneration"]}, ("summarization",)),
        ({**T5, "model_type": "bart", "architectures": ["BartForSequenceClassification"]}, ("text-classification",)),
    ],
)
def test_an_encoder_decoder_answers_what_its_type_was_taught(tmp_path: Path, config: Any, tasks: Any) -> None:
    assert prepare(tmp_path, directory(tmp_path, config)).tasks == tasks


@pytest.mark.parametrize(
    ("config", "task", "found"),
    [
        (T5, {"name": "translation"}, "translation"),
        (T5, {"name": "summarisation"}, "summarization"),
        ({**BERT, "architectures": ["BertForSequenceClassification"]}, {"name": "relations"}, "relation-extraction"),
        ({**BERT, "architectures": ["BertForTokenClassification"]}, {"name": "tagging"}, "token-classification"),
        ({**BERT, "architectures": ["BertModel"]}, {"name": "embedding"}, "feature-extraction"),
    ],
)
def test_an_artifact_answers_what_it_was_tuned_for(tmp_path: Path, config: Any, task: Any, found: str) -> None:
    served = prepare(tmp_path, tuned(tmp_path, config, task))
    assert (served.tasks, served.taught) == ((found,), task)


def test_what_was_taught_is_found_through_compression_and_sweeps(tmp_path: Path) -> None:
    config = {**BERT, "architectures": ["BertForTokenClassification"]}
    task = {"name": "tagging", "max_tokens": 9}
    base = tuned(tmp_path, config, task)
    entry = {"kind": "finetune", "path": str(tmp_path / base)}
    for name, made, role in (
        ("small", {"kind": "compress"}, "model.source"),
        ("swept", {"kind": "tune", "trial": {"kind": "compress"}, "after": {"compress": None}}, "trial.model.source"),
        ("best", {"kind": "tune", "trial": {"kind": "finetune", "task": task}, "after": {"compress": None}}, "none"),
    ):
        make_artifact(tmp_path, name, made["kind"])
        _edit(tmp_path / name, made, {role: entry})
        (tmp_path / name / "model/config.json").write_text(json.dumps(config))
        assert launch.prepare(recipe(tmp_path, name), proven=False).served[0].taught == task, name
    (tmp_path / base / "manifest.json").unlink()
    [served] = launch.prepare(recipe(tmp_path, "small"), proven=False).served
    assert (served.taught, served.tasks) == (None, ("token-classification",)), "its base is gone: the head still tells"


def test_a_directory_with_the_marks_of_entities_is_for_relations(tmp_path: Path) -> None:
    source = directory(tmp_path, {**BERT, "architectures": ["BertForSequenceClassification"]})
    (Path(source) / "tokenizer.json").write_text(json.dumps({"added_tokens": ["[E1]", "[/E1]", "[E2]", "[/E2]"]}))
    assert prepare(tmp_path, source).tasks == ("relation-extraction",)


def test_the_page_is_told_what_stands_for_a_gap(tmp_path: Path) -> None:
    source = directory(tmp_path, {**BERT, "architectures": ["RobertaForMaskedLM"]})
    assert prepare(tmp_path, source).mask_token is None
    for told in ("<mask>", {"content": "<mask>"}):
        (Path(source) / "tokenizer_config.json").write_text(json.dumps({"mask_token": told}))
        assert prepare(tmp_path, source).mask_token == "<mask>"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "lstm", "architectures": ["LSTMForCausalLM"]}, "no engine serves.*Llama or GPT-2"),
        ({"model_type": "electra", "architectures": ["ElectraForPreTraining"]}, "fills no gaps.*fine-tune"),
        ({**T5, "architectures": ["T5Model"]}, "without a head that writes text.*summarisation or translation"),
    ],
)
def test_what_nothing_serves_is_refused_before_anything_starts(tmp_path: Path, config: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        prepare(tmp_path, directory(tmp_path, config))


def test_an_encoder_decoder_that_was_only_pre_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="learnt no task yet"):
        prepare(tmp_path, tuned(tmp_path, T5, None))


def test_what_only_decoders_have_is_refused(tmp_path: Path) -> None:
    source = directory(tmp_path, {**BERT, "architectures": ["BertForMaskedLM"]})
    with pytest.raises(InputError, match=r"model\.gpus_per_replica = 2.*set it to 1"):
        prepare(tmp_path, source, gpus_per_replica=2)
