"""Answering through the real chain: Ray Train with two workers, windows of a question on both of them, the evaluate stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manta.train.metrics import read
from tests.tasks import spanned
from tests.train.staged import made

pytestmark = pytest.mark.integration
THINGS = ("boat", "car", "house", "horse", "clock")
EXAMPLES = [
    {**example, "context": example["context"].replace("boat", thing)}
    for thing in THINGS
    for example in spanned.MISSING[:5] + spanned.MISSING[6:]
]
TASK = {"name": "answering", "max_tokens": 15, "stride": 5, "null_threshold": 100.0}  # so high that all is answered


def moved(example: dict[str, Any]) -> dict[str, Any]:
    """Its answers where they stand now."""
    return {
        **example,
        "answers": [{**each, "start": example["context"].index(each["text"])} for each in example["answers"]],
    }


def test_two_workers_answer_what_the_evaluate_stage_then_measures(tmp_path: Path, ray_session: None) -> None:
    examples = [moved(example) for example in EXAMPLES]
    spanned.bert(tmp_path / "bert", spanned.texts(examples))
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(example) + "\n" for example in examples))
    data = {"examples": str(file), "validation_fraction": 0.3}
    done = made(
        {
            "kind": "finetune", "name": "tuned", "output": str(tmp_path), "data": data, "task": TASK,
            "model": {"source": f"{tmp_path}/bert"}, "optimizer": {"lr": 5e-3, "precision": "fp32"},
            "batch": {"samples": 16}, "stop": {"steps": 60}, "evaluate": {"every_steps": 30},
            "checkpoint": {"every_steps": 30, "keep": 1}, "resources": {"workers": 2, "micro_batch": 8},
        }
    )  # fmt: skip
    lines = [line for line in read(done.folder) if line["kind"] == "validation"]
    judged = made(
        {
            "kind": "evaluate", "name": "scores", "output": str(tmp_path), "model": {"source": "tuned"}, "data": data,
            "evaluate": {
                "engine": "transformers", "dtype": "float32", "perplexity_rows": 0, "task": TASK, "task_samples": 1000,
            },
        }
    )  # fmt: skip
    scores = json.loads(judged.folder.read_text("scores.json"))
    rows = json.loads(done.folder.read_text("work/rows/report.json"))["validation"]["rows"]
    assert [line["rows"] for line in lines] == [len(scores["examples"])] * 2
    assert rows == 3 * len(scores["examples"]), "each context is read in three windows"
    assert rows % 2 or (rows // 2) % 3, "the windows of some question lie on both workers"
    assert judged.metrics["score"] == pytest.approx(done.metrics["validation_score"])
    assert scores["task"]["figures"]["exact_match"] == pytest.approx(done.metrics["validation_exact_match"])
    contexts = [example["context"] for example in examples]
    for row in scores["examples"]:
        assert row["prediction"] and any(row["prediction"] in context for context in contexts)
        assert 0 <= row["confidence"][0] <= 1
        assert row["score"] == 100.0 or row["prediction"] not in row["reference"]
