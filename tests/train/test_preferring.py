"""Preferences through the real chain: two workers, LoRA, the reference asked before training, the evaluate stage after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manta.errors import InputError
from manta.train.metrics import read
from tests.tasks import labelled
from tests.train.staged import made

pytestmark = pytest.mark.integration
PLACES = ("film", "match", "cake", "day")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and 40 pairs, of which some 12 validate."""
    folder = tmp_path_factory.mktemp("runs")
    labelled.llama(folder / "llama")
    pairs = [
        {"prompt": f"{word} {what}?", "chosen": f"yes {word}", "rejected": f"no {word}"}
        for what in PLACES
        for word in labelled.GOOD + labelled.BAD
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return folder


def finetune(place: Path, **given: Any) -> dict[str, Any]:
    return {
        "kind": "finetune", "name": "tuned", "output": str(place),
        "data": {"examples": f"{place}/pairs.jsonl", "validation_fraction": 0.3},
        "model": {"source": f"{place}/llama"}, "task": {"name": "preference", "max_tokens": 64},
        "adapt": {"method": "lora", "rank": 4}, "optimizer": {"lr": 2e-2, "precision": "fp32"},
        "batch": {"samples": 8}, "stop": {"steps": 24}, "evaluate": {"every_steps": 8},
        "checkpoint": {"every_steps": 8, "keep": 1},
        "early_stop": {"figure": "score", "mode": "max", "patience": 9, "keep_best": False},
        "resources": {"workers": 2, "micro_batch": 2}, **given,
    }  # fmt: skip


def test_two_workers_learn_what_the_evaluate_stage_then_measures(place: Path, ray_session: None) -> None:
    done = made(finetune(place))
    lines = [line for line in read(done.folder) if line["kind"] == "validation"]
    steps = [line for line in read(done.folder) if line["kind"] == "train"]
    assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-4), "two ranks together begin at their reference"
    assert len(lines) == 3 and done.metrics["validation_score"] == lines[-1]["score"] == 100.0
    assert done.metrics["validation_margin"] == lines[-1]["margin"] > 0.3
    assert json.loads(done.folder.read_text("model/config.json"))["architectures"] == ["LlamaForCausalLM"]
    judged = made(
        {
            "kind": "evaluate", "name": "scores", "output": str(place),
            "model": {"source": "tuned", "reference": f"{place}/llama"}, "data": finetune(place)["data"],
            "evaluate": {
                "engine": "transformers", "dtype": "float32", "perplexity_rows": 0,
                "task": {"name": "preference", "max_tokens": 64},
            },
        }
    )  # fmt: skip
    scores = json.loads(judged.folder.read_text("scores.json"))
    assert scores["task"]["figures"]["margin"] == pytest.approx(lines[-1]["margin"], rel=1e-3)
    assert judged.metrics["score"] == 100.0 and judged.metrics["task_samples"] == lines[-1]["rows"]
    assert set(scores["models"]) == {"model", "reference"}
    assert all(row["reference"].startswith("yes") and row["prediction"] > 0 for row in scores["examples"])


def test_what_does_not_go_together_is_refused(place: Path) -> None:
    evaluation = {
        "kind": "evaluate", "name": "no", "output": str(place), "model": {"source": f"{place}/llama"},
        "data": {"examples": f"{place}/pairs.jsonl"},
        "evaluate": {"engine": "transformers", "perplexity_rows": 0, "task": {"name": "preference"}},
    }  # fmt: skip
    other = {**evaluation["evaluate"], "engine": "vllm"}
    with pytest.raises(InputError, match=r"task\.name = 'preference' compares texts .* evaluate\.engine=transformers"):
        made({**evaluation, "evaluate": other})
    chat = {**evaluation["evaluate"], "task": {"name": "chat"}}
    with pytest.raises(InputError, match=r"model\.reference = .* set evaluate\.task\.name=preference"):
        both = {"source": f"{place}/llama", "reference": f"{place}/llama"}
        made({**evaluation, "name": "neither", "model": both, "evaluate": chat})
    (place / "bert").mkdir()
    (place / "bert/config.json").write_text('{"model_type": "bert"}')
    (place / "bert/chat_template.jinja").write_text("x")
    with pytest.raises(InputError, match=r"'bert', an encoder, and task\.name = 'preference' is taught to a decoder"):
        made(finetune(place, name="other", model={"source": f"{place}/bert"}))
