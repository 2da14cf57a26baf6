"""A T5 learns to translate through the whole chain: rows, two workers of Ray Train, DeepSpeed, scores while it trains, export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manta import recipe as recipes
from manta import stage
from manta.progress import Progress
from manta.schema import FinetuneRecipe
from manta.train.metrics import read
from tests.tasks import paired

pytestmark = pytest.mark.integration


def test_two_workers_teach_a_t5_until_it_translates(tmp_path: Path, ray_session: None) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    source = paired.t5(tmp_path / "t5")
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(example) + "\n" for example in paired.PAIRS))
    other = tmp_path / "same.jsonl"  # much the same, but no text of the training file
    other.write_text("".join(json.dumps({**e, "input": e["input"] + " "}) + "\n" for e in paired.PAIRS))
    recipe = recipes.validate(
        {
            "kind": "finetune", "name": "t", "output": str(tmp_path / "runs"),
            "data": {"examples": str(file), "validation": str(other)}, "model": {"source": str(source)},
            "task": {**paired.TASK, "score_rows": 6}, "optimizer": {"lr": 1e-2, "precision": "fp32"},
            "schedule": {"name": "constant"}, "batch": {"samples": 10}, "stop": {"steps": 140},
            "evaluate": {"every_steps": 70}, "checkpoint": {"every_steps": 70},
            "resources": {"workers": 2, "micro_batch": 5, "zero_stage": 2},
        }
    )  # fmt: skip
    assert isinstance(recipe, FinetuneRecipe)
    made = stage.run(recipe, Progress(quiet=True)).artifact
    lines = [line for line in read(made.folder) if line["kind"] == "validation"]
    assert all(line["score_rows"] == 6 and {"perplexity", "bleu"} <= line.keys() for line in lines)
    assert [line["step"] for line in lines] == [70, 140]
    assert made.metrics["validation_score"] == lines[-1]["score"] > 0
    model = AutoModelForSeq2SeqLM.from_pretrained(f"{made.folder.url}/model")
    tokenizer = AutoTokenizer.from_pretrained(f"{made.folder.url}/model")
    asked = tokenizer([paired.SPOKEN + example["input"] for example in paired.PAIRS], padding=True, return_tensors="pt")
    said = tokenizer.batch_decode(model.generate(**asked, max_new_tokens=30), skip_special_tokens=True)
    assert said == [example["target"] for example in paired.PAIRS]
