"""Every kind of model and objective through the real chain: its own rows, Ray Train, DeepSpeed, an exported directory."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from manta import artifact, stage
from manta import recipe as recipes
from manta.progress import Progress
from manta.train.metrics import read

pytestmark = pytest.mark.integration

WORDPIECE = {"type": "wordpiece", "vocab_size": 400}
# layout, tokenizer, model, objective, the class of the exported model, ZeRO stage
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], str, dict[str, Any], str, int]] = {
    "nsp": ({"kind": "sentence_pairs"}, WORDPIECE, "bert-tiny", {"name": "nsp"}, "BertForPreTraining", 1),
    "multi_mlm": ({"kind": "best_fit"}, WORDPIECE, "bert-tiny", {"name": "multi_mlm"}, "BertForMaskedLM", 3),
    "spans": (
        {"kind": "denoising"},
        {"type": "unigram", "vocab_size": 500, "sentinels": 40},
        "t5-tiny",
        {"name": "denoising"},
        "T5ForConditionalGeneration",
        2,
    ),
    "lstm": ({"kind": "concat"}, {"vocab_size": 400}, "lstm-tiny", {"name": "clm"}, "LSTMForCausalLM", 0),
}
STEPS = 24


def run(raw: dict[str, Any]) -> artifact.Artifact:
    recipe = recipes.validate(raw)
    assert not isinstance(recipe, recipes.PipelineRecipe)
    return stage.run(recipe, Progress(quiet=True)).artifact


@pytest.mark.parametrize("case", CASES)
def test_it_learns_and_leaves_a_directory_that_transformers_loads(
    case: str, tiny_corpus: Path, tmp_path: Path, ray_session: None
) -> None:
    import transformers

    layout, tokenizer, preset, objective, head, zero_stage = CASES[case]
    data = {"sources": [{"path": f"{tiny_corpus}/*.jsonl", "format": "jsonl"}], "seq_len": 64, "layout": layout}
    run(
        {
            "kind": "prepare",
            "name": "shards",
            "output": str(tmp_path),
            "tokenizer": tokenizer,
            "data": data | {"validation_fraction": 0.1},
        }
    )
    made = run(
        {
            "kind": "pretrain",
            "name": "base",
            "output": str(tmp_path),
            "data": {"shards": "shards"},
            "model": {"preset": preset},
            "objective": objective,
            "optimizer": {"lr": 5.0e-3, "precision": "fp32"},
            "schedule": {"name": "wsd"},
            "batch": {"samples": 8},
            "stop": {"steps": STEPS},
            "evaluate": {"every_steps": 12, "max_rows": 16},
            "checkpoint": {"every_steps": 24},
            "resources": {"micro_batch": 8, "zero_stage": zero_stage},
        }
    )
    lines = [line for line in read(made.folder) if line["kind"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    vocab = json.loads(made.folder.read_text("model/config.json"))["vocab_size"]
    parts = {"nsp": math.log(vocab) + math.log(2), "multi_mlm": 2 * math.log(vocab)}
    chance = parts.get(case, math.log(vocab))
    assert lines[0]["loss"] == pytest.approx(chance, rel=0.15), "it begins by guessing"
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.4
    assert {"loss_tokens", "loss_pairs"} <= read_validation(made).keys() or case != "nsp"
    if case == "lstm":
        from manta.models import lstm

        lstm.register()
    assert json.loads(made.folder.read_text("model/config.json"))["architectures"] == [head]
    auto = {"lstm": "AutoModelForCausalLM"}.get(case, head)
    model, found = getattr(transformers, auto).from_pretrained(f"{made.folder.url}/model", output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    assert sum(p.numel() for p in model.parameters()) <= made.metrics["parameters"]


def read_validation(made: artifact.Artifact) -> dict[str, Any]:
    return [line for line in read(made.folder) if line["kind"] == "validation"][-1]
