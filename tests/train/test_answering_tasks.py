"""Encoder-decoders learn ten pairs by heart under DeepSpeed; what is exported opens elsewhere and answers as it was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manta.data.stream import read_steps
from manta.errors import InputError
from manta.tasks import TASKS
from manta.train import asking, run, validation
from manta.train.job import Job, model_of
from tests.tasks import paired
from tests.train import in_process
from tests.train.in_process import Trained
from tests.train.under_deepspeed import lone_process

pytestmark = pytest.mark.integration
SUMMARY = {"name": "summarisation", "max_input_tokens": 40, "max_target_tokens": 24}


@pytest.fixture(scope="module")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with lone_process(tmp_path_factory.mktemp("group")):
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "t5": paired.t5(folder / "t5"),
        "bart": paired.bart(folder / "bart"),
        "llama": paired.llama(folder / "llama"),
    }


def job_of(task: dict[str, Any], model: Path, folder: Path, **given: Any) -> Job:
    return in_process.job_of(task, in_process.inputs_of(paired.PAIRS, model, folder), folder, **given)


def train(task: dict[str, Any], model: Path, folder: Path, **given: Any) -> Trained:
    learning = {"optimizer": {"lr": 1e-2, "precision": "fp32"}, "stop": {"steps": 140}}
    return in_process.train(task, paired.PAIRS, model, folder, **learning, **given)


def answers_of(task: dict[str, Any], model: Path, folder: Path) -> list[str]:
    outcome = in_process.asked(task, paired.PAIRS, model, folder)
    assert outcome["references"] == [example["target"] for example in paired.PAIRS]
    return list(outcome["predictions"])


@pytest.mark.parametrize(("family", "task"), [("t5", paired.TASK), ("bart", paired.TASK), ("t5", SUMMARY)])
def test_ten_pairs_are_learnt_by_heart(
    family: str, task: dict[str, Any], models: dict[str, Path], tmp_path: Path, process_group: None
) -> None:
    import transformers

    done = train(task, models[family], tmp_path)
    assert done.job.objective.name == "denoising"
    assert done.figures["score"] == 100.0 and done.figures["score_rows"] == 10, done.losses[-1]
    assert set(TASKS[str(task["name"])].FIGURES) < set(done.figures) and done.figures["perplexity"] < 1.5
    wanted = [example["target"] for example in paired.PAIRS]
    assert answers_of(task, done.model, tmp_path) == wanted
    assert answers_of({**task, "beams": 3}, done.model, tmp_path) == wanted
    opened = transformers.AutoModelForSeq2SeqLM.from_pretrained(done.model)
    assert type(opened).__name__ == {"t5": "T5", "bart": "Bart"}[family] + "ForConditionalGeneration"
    state = opened.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in done.after.items())
    assert opened.get_output_embeddings().weight is opened.get_input_embeddings().weight, "still tied"
    before = json.loads((models[family] / "config.json").read_text())
    after = json.loads((done.model / "config.json").read_text())
    same = ("decoder_start_token_id", "eos_token_id", "pad_token_id", "is_encoder_decoder", "architectures")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    stops = [json.loads((place / "generation_config.json").read_text()) for place in (models[family], done.model)]
    assert stops[0] == stops[1]
    found = transformers.AutoTokenizer.from_pretrained(done.model)
    ids = found((paired.SPOKEN if family == "t5" and task is paired.TASK else "") + paired.PAIRS[0]["input"])[
        "input_ids"
    ]
    if task is paired.TASK:
        ids = torch.tensor([ids if family == "t5" else [*ids, found.eos_token_id]])
        said = found.decode(opened.generate(ids, max_new_tokens=30)[0], skip_special_tokens=True)
        assert said.strip() == wanted[0], "as anyone would ask it who has only the directory"


@pytest.mark.parametrize(
    "adapt",
    [{"method": "lora", "rank": 8, "alpha": 32.0}, {"method": "freeze", "freeze_layers": 1}],
    ids=["lora", "freeze"],
)
def test_adapted_models_answer_too(
    adapt: dict[str, Any], models: dict[str, Path], tmp_path: Path, process_group: None
) -> None:
    """Scored as it is trained, with the adapter beside it; exported whole."""
    done = train(paired.TASK, models["t5"], tmp_path, adapt=adapt)
    assert done.losses[-1] < 0.6 * done.losses[0] and 0 < done.figures["score"] <= 100
    answers = answers_of(paired.TASK, done.model, tmp_path)
    wanted = [example["target"] for example in paired.PAIRS]
    assert TASKS["translation"].score(answers, wanted)["score"] == pytest.approx(done.figures["score"])


def test_a_decoder_learns_the_same_examples_by_instruction(models: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    job = job_of(paired.TASK, models["llama"], tmp_path)
    assert job.objective.name == "clm" and validation.judge_of(job, 0) is None
    first = read_steps(job.feed, np.array([0]), 0, 1)
    tokenizer = AutoTokenizer.from_pretrained(models["llama"])
    texts = {tokenizer.decode(row[row != -100]) for row in first["labels"][0]}
    assert texts == {example["target"] + "<|end|>" for example in paired.PAIRS}


def test_which_rows_are_answered_together_depends_on_no_worker(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manta.tasks.scoring.generation.AT_ONCE", 2)
    groups: dict[int, list[Any]] = {}
    for workers in (1, 2, 3):
        (tmp_path / str(workers)).mkdir()
        task = {**paired.TASK, "score_rows": 7}
        given = {"workers": workers, "micro_batch": 1}
        job = job_of(task, models["t5"], tmp_path / str(workers), resources=given, batch={"samples": 6})
        askers = [asking.Asker(job, rank, 10) for rank in range(workers)]
        found = [
            [asker.mine[turn] for asker in askers if turn < len(asker.mine)] for turn in range(len(askers[0].mine))
        ]
        groups[workers] = [rows["labels"].tolist() for turn in found for rows in turn]
    assert groups[1] == groups[2] == groups[3]
    assert [len(group) for group in groups[1]] == [2, 2, 2, 1]
    everything = job_of(paired.TASK, models["t5"], tmp_path / "1")
    all_rows = validation.rows_of(everything, 0)["labels"].tolist()
    assert [row for group in groups[1] for row in group] == [all_rows[number] for number in (0, 1, 2, 4, 5, 7, 8)]


def test_only_a_score_that_is_measured_can_stop_a_run(models: dict[str, Path], tmp_path: Path) -> None:
    def check(model: str, figure: str = "score", mode: str = "max", **given: Any) -> None:
        other = [{**example, "input": f"{example['input']} now"} for example in paired.PAIRS]
        inputs = in_process.inputs_of(paired.PAIRS, models[model], tmp_path, other)
        early, task = {"figure": figure, "mode": mode, "patience": 2}, given.pop("task", paired.TASK)
        run.check(in_process.recipe_of(task, tmp_path, early_stop=early, **given), inputs)

    for figure in ("score", "bleu"):
        check("t5", figure)
    check("t5", "perplexity", "min")
    check("llama", "perplexity", "min")
    off = {**paired.TASK, "score_rows": 0}
    stage_3, prefix = {"micro_batch": 5, "zero_stage": 3}, {"method": "prefix", "tokens": 4}
    for model, given in (
        ("llama", {}),
        ("t5", {"task": off}),
        ("t5", {"resources": stage_3}),
        ("t5", {"adapt": prefix}),
    ):
        with pytest.raises(
            InputError, match=r"early_stop.figure = 'score' is not measured.*choose one of loss, perplexity$"
        ):
            check(model, **given)
    with pytest.raises(InputError, match=r"early_stop\.mode = 'min' would keep"):
        check("t5", mode="min")


def test_an_adapter_is_there_when_the_model_answers(models: dict[str, Path], tmp_path: Path) -> None:
    """Each answer is the likeliest token each time of the adapted model, without a batch or a cache."""
    from manta.tasks.scoring import generation

    job = job_of(paired.TASK, models["t5"], tmp_path, adapt={"method": "lora", "rank": 4})
    model = model_of(job, lambda _: None).eval()
    rows = validation.rows_of(job, 0)
    asked = [
        ids[mask > 0].tolist() for ids, mask in zip(rows["input_ids"][:4], rows["attention_mask"][:4], strict=True)
    ]
    before = generation.answers(model, asked, 0, 6)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter)
    found = generation.answers(model, asked, 0, 6)
    assert found != before
    for ids, answer in zip(asked, found, strict=True):
        read, decoded = torch.tensor([ids]), [0]
        while len(decoded) <= 6:
            given = {
                "input_ids": read,
                "attention_mask": torch.ones_like(read),
                "decoder_input_ids": torch.tensor([decoded]),
            }
            token = int(model(**given, use_cache=False).logits[0, -1].argmax())
            if token == 1:
                break
            decoded.append(token)
        assert decoded[1:] == answer
