"""Parity of the trainer and Transformers: every family agrees with itself, and what is wrong is refused with what is wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta.artifact import Resolved
from manta.errors import InputError
from manta.evaluate.parity import plain, reading, scores, trainer, verdict
from manta.evaluate.parity.probes import CONVERSATIONS, TEXTS, Probe
from manta.evaluate.parity.scores import Believed
from manta.evaluate.parity.subject import Subject
from tests.evaluate.parity_models import compared, directory, of_family, of_head, rewrite, tuned
from tests.tasks.labelled import SENTIMENTS

FAMILIES = ("llama", "gpt2", "lstm", "bert", "t5", "bart")
HEADS = ("BertForSequenceClassification", "BertForTokenClassification", "BertForQuestionAnswering", "several", "llama")


# --- agreement -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_believes_the_same_on_both_sides(family: str, tmp_path: Path) -> None:
    report = compared(directory(of_family(family, tmp_path / family)))
    assert verdict.missed(report) == []
    assert {probe["kind"] for probe in report["probes"]} == (
        {"conversation", "text"} if family in ("llama", "gpt2", "lstm") else {"text"}
    )
    for probe in report["probes"]:
        assert probe["distance"]["trainer_transformers"]["max"] < 1e-4, probe["name"]
        assert probe["distance"]["trainer_transformers"]["argmax"] == 1.0
    assert verdict.figures(report)["parity"] is True


@pytest.mark.parametrize("head", HEADS)
def test_heads_believe_the_same_on_both_sides(head: str, tmp_path: Path) -> None:
    report = compared(directory(of_head(head, tmp_path / "head")))
    assert verdict.missed(report) == []
    assert len(report["probes"]) == len(TEXTS)
    assert max(probe["distance"]["trainer_transformers"]["max"] for probe in report["probes"]) < 1e-4
    assert any("vLLM is not asked: it does not serve" in said for said in report["left_out"])


def test_examples_of_a_head_are_probes_too(tmp_path: Path) -> None:
    folder = of_head("BertForSequenceClassification", tmp_path / "head")
    file = tmp_path / "examples.jsonl"
    some = [{**example, "label": "yes"} for example in SENTIMENTS]
    file.write_text("".join(json.dumps(example) + "\n" for example in some))
    inputs = {"data.examples": Resolved("data.examples", "x", "file", str(file), "f", "c")}
    task = ["evaluate.task={name: classification}", "data.examples=./x", "data.validation_fraction=1.0"]
    report = compared(directory(folder), *task, inputs=inputs)
    assert [probe["kind"] for probe in report["probes"]].count("example") == 6
    assert verdict.missed(report) == []


def test_the_built_in_conversations_are_what_they_are_said_to_be() -> None:
    for said in CONVERSATIONS.values():
        assert said[-1]["role"] == "assistant"
        assert said[0]["role"] != "assistant"
    assert any(message["role"] == "system" for said in CONVERSATIONS.values() for message in said)
    assert any(not message["content"] for said in CONVERSATIONS.values() for message in said[:-1])
    assert max(map(len, CONVERSATIONS.values())) == 10


# --- what is wrong is refused ----------------------------------------------------------------------------------------


class TestMergedAdapter:
    def test_a_rightly_merged_model_passes(self, tmp_path: Path) -> None:
        report = compared(tuned(tmp_path))
        assert verdict.missed(report) == []
        assert {check["name"]: check["ok"] for check in report["checks"]} == {"end": True, "files": True, "rows": True}
        assert set(report["tolerance"]) == {"trainer_transformers", "unmerged_transformers"}
        assert 0 < verdict.figures(report)["parity_unmerged_transformers"] < 1e-4

    def test_one_that_was_merged_twice_is_refused(self, tmp_path: Path) -> None:
        def again(merged: dict[str, Any], base: dict[str, Any]) -> None:
            for name in merged.keys() & base.keys():  # tied tables have two names
                merged[name] = 2 * merged[name] - base[name]  # W + 2 s B A

        report = compared(tuned(tmp_path, change=again))
        [said] = verdict.missed(report)
        assert said.startswith("parity: unmerged and transformers disagree on 16 of 16 probes")
        assert verdict.figures(report)["parity"] is False

    def test_a_template_that_was_changed_afterwards_is_refused(self, tmp_path: Path) -> None:
        source = tuned(tmp_path)
        template = tmp_path / "tuned" / "model" / "chat_template.jinja"
        template.write_text(template.read_text().replace("|>\n", "|>\n\n"))
        missed = verdict.missed(compared(source))
        assert any("was changed after its run ended" in said for said in missed)
        [rows] = [said for said in missed if "read otherwise than it was trained" in said]
        assert "training read 'How" in rows and "give '\\n" in rows

    def test_weights_that_were_changed_afterwards_are_refused(self, tmp_path: Path) -> None:
        source = tuned(tmp_path)

        def disturb(merged: dict[str, Any], _: dict[str, Any]) -> None:
            name = next(name for name in merged if name.endswith("q_proj.weight"))
            merged[name] = merged[name] + 0.05

        rewrite(tmp_path / "tuned" / "model", tmp_path / "source", disturb)
        missed = verdict.missed(compared(source))
        assert any("was changed after its run ended" in said for said in missed)
        assert any(said.startswith("parity: unmerged and transformers disagree") for said in missed)

    def test_a_base_that_is_gone_is_told_and_not_held_against_the_model(self, tmp_path: Path) -> None:
        source = tuned(tmp_path)
        (tmp_path / "source" / "config.json").unlink()
        report = compared(source)
        [merge] = [check for check in report["checks"] if check["name"] == "merge"]
        assert merge["ok"] is None
        assert verdict.missed(report) == []


def test_a_model_that_transformers_reads_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, load = of_family("gpt2", tmp_path / "gpt2"), plain.load

    def disturbed(subject: Subject) -> Any:
        model = load(subject)
        model.transformer.wpe.weight.data = model.transformer.wpe.weight.data.roll(1, 0)  # positions off by one
        return model

    monkeypatch.setattr(plain, "load", disturbed)
    [said] = verdict.missed(compared(directory(folder)))
    assert said.startswith("parity: trainer and transformers disagree on 16 of 16 probes")


def test_a_first_token_that_the_tokenizer_adds_to_texts_is_not_added_to_conversations(tmp_path: Path) -> None:
    folder = of_family("llama", tmp_path / "llama")
    settings = json.loads((folder / "tokenizer.json").read_text())
    pieces = [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    number = next(token["id"] for token in settings["added_tokens"] if token["content"] == "<|endoftext|>")
    settings["post_processor"] = {
        "type": "TemplateProcessing", "single": pieces, "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [number], "tokens": ["<|endoftext|>"]}},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    assert verdict.missed(compared(directory(folder))) == []


def test_answers_that_generation_does_not_end_are_refused(tmp_path: Path) -> None:
    folder = of_family("llama", tmp_path / "llama")
    (folder / "generation_config.json").write_text('{"eos_token_id": 0}')
    [said] = verdict.missed(compared(directory(folder)))
    assert "generation stops at [0]: set eos_token_id" in said


def test_without_a_chat_template_only_texts_are_compared(tmp_path: Path) -> None:
    folder = of_family("llama", tmp_path / "llama")
    (folder / "chat_template.jinja").unlink()
    report = compared(directory(folder))
    assert {probe["kind"] for probe in report["probes"]} == {"text"}
    assert any("no chat template" in said for said in report["left_out"])


def test_what_the_template_refuses_is_left_out_and_said(tmp_path: Path) -> None:
    folder = of_family("llama", tmp_path / "llama")
    template = folder / "chat_template.jinja"
    guard = "{% if messages and messages[0].role == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    template.write_text(guard + template.read_text())
    report = compared(directory(folder))
    assert verdict.missed(report) == []
    assert "a system message" not in {probe["name"] for probe in report["probes"]}
    assert any(
        said.startswith("a system message: training refuses it: no system message") for said in report["left_out"]
    )


def test_a_class_that_is_not_trained_here_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForMultipleChoice"]}')
    with pytest.raises(InputError, match=r"evaluate\.parity=false"):
        _ = Subject(tmp_path).objective


# --- parts -----------------------------------------------------------------------------------------------------------


def test_distance_by_hand() -> None:
    one = Believed(np.array([-1.0, -2.0, -3.0]), np.array([4, 5, 6]))
    other = Believed(np.array([-1.0, -2.5, -2.9]), np.array([4, 5, 7]))
    found = scores.distance(one, other)
    assert found.largest == pytest.approx(0.5)
    assert found.mean == pytest.approx(0.2)
    assert found.same_best == pytest.approx(2 / 3)
    impossible = Believed(np.array([-math.inf]), np.array([0]))
    assert scores.distance(impossible, impossible).largest == 0
    assert scores.distance(impossible, Believed(np.array([-1.0]), np.array([0]))).largest == math.inf
    broken = Believed(np.array([math.nan]), np.array([0]))
    assert scores.distance(broken, broken).largest == math.inf
    with pytest.raises(ValueError, match="log-probabilities against"):
        scores.distance(one, impossible)


def test_beliefs_by_hand() -> None:
    import torch

    found = scores.of_tokens(torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])), [1, 2])
    assert found.logs == pytest.approx([math.log(0.25), math.log(0.8)])
    assert found.best.tolist() == [0, 2]
    several = scores.of_classes(torch.tensor([[0.0, math.log(3.0)]]), several=True)
    assert several.logs == pytest.approx([math.log(0.5), math.log(0.75)])


def test_where_readings_part_is_shown_as_text(tokenizer: Any) -> None:
    one, other = tokenizer("well done")["input_ids"], tokenizer("well gone")["input_ids"]
    place = reading.first_difference(one, other)
    assert place == 5
    found = reading.show(one, other, place, tokenizer)
    assert (found["before"], found["trainer"]["text"], found["other"]["text"]) == ("ell ", "done", "gone")
    assert reading.first_difference(one, one) is None
    assert reading.first_difference(one, [*one, 3]) == len(one)


def test_what_stands_before_the_last_answer(tokenizer: Any) -> None:
    said = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "bc"})
    ids, begins = trainer.conversation_ids(Probe("x", said), tokenizer)
    assert tokenizer.decode(ids[:begins]) == "<|user|>\na<|end|>\n<|assistant|>\n"
    assert tokenizer.decode(ids[begins:]) == "bc<|end|>"


@pytest.mark.parametrize(
    ("dtypes", "allowed"), [(("float32",), 1e-3), (("bfloat16",), 0.5), (("float32", "int8"), 0.5)]
)
def test_tolerance_follows_from_the_least_precise(dtypes: tuple[str, ...], allowed: float) -> None:
    from manta.sections.outcome import Gate

    assert verdict.tolerance(Gate(), *dtypes) == allowed
    assert verdict.tolerance(Gate(parity=0.01), *dtypes) == 0.01


def test_refusals_name_the_reader_and_the_place() -> None:
    where = {"place": 3, "before": "say ", "trainer": {"ids": [7], "text": "a"}, "other": {"ids": [7, 7], "text": "aa"}}
    probes = [
        {"name": "x", "differences": {"vllm": where}, "distance": {"vllm_transformers": {"max": 0.7}}},
        {"name": "y", "differences": {"transformers": {"refused": "too long"}}, "distance": {}},
    ]
    report = {"checks": [], "tolerance": {"vllm_transformers": 0.5}, "probes": probes}
    assert verdict.missed(report) == [
        "parity: transformers reads 1 of 2 probes otherwise than the trainer: it refuses 'y': too long",
        "parity: vllm reads 1 of 2 probes otherwise than the trainer: in 'x' after 'say ' the trainer reads 'a' [7], vllm 'aa' [7, 7]",
        "parity: vllm and transformers disagree on 1 of 2 probes: log-probabilities of 'x' differ by up to 0.7 nats, gate.parity allows 0.5",
    ]
    assert verdict.figures(report) == {"parity": False, "parity_probes": 2, "parity_vllm_transformers": 0.7}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    from manta.data import tokenizer

    folder = tmp_path_factory.mktemp("bytes")
    tokenizer.train(iter(["a"]), 300, folder)
    return AutoTokenizer.from_pretrained(folder)
