"""A sweep over tuning and compression together: one training, two compressions of it, each measured alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from manta import artifact as artifacts
from manta import recipe as recipes
from manta import stage
from manta.progress import Progress
from manta.schema import TuneRecipe

if TYPE_CHECKING:
    from tests.compress.conftest import Trained

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]


def test_one_training_is_compressed_in_two_ways(
    ray_session: None, output: str, silent: Progress, trained: Trained, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    lines = [json.dumps({"input": f"Return {number} times the value.", "target": "the value"}) for number in range(24)]
    pairs.write_text("\n".join(lines) + "\n")
    calibration = {"shards": str(trained.shards), "samples": 4, "seq_len": 64}
    recipe = recipes.validate(
        {
            "kind": "tune",
            "name": "run",
            "output": output,
            "trial": {
                "kind": "finetune",
                "data": {"examples": str(pairs), "validation_fraction": 0.3},
                "model": {"source": str(trained.model)},
                "task": {"name": "chat", "max_tokens": 64},
                "optimizer": {"lr": 1.0e-4, "precision": "fp32"},
                "batch": {"samples": 4},
                "stop": {"steps": 2},
            },
            "after": {
                "compress": {
                    "compress": {"quantise": {"algorithm": "rtn", "smoothquant": 0.5}, "calibration": calibration},
                    "resources": {"cpus": 1},
                },
                "latency": {"requests": 3, "tokens": 16, "new_tokens": 4, "engine": "transformers", "dtype": "float32"},
            },
            "search": {
                "method": "grid",
                "trials": 2,
                "space": {"after.compress.compress.quantise.smoothquant": {"choice": [0.3, 0.8]}},
                "objectives": {"validation_loss": "min", "latency.p50_ms": "min"},
                "constraints": {"compress.size_ratio": {"at_most": 0.9}},
            },
            "resources": {"concurrent_trials": 2},
        }
    )
    assert isinstance(recipe, TuneRecipe)
    made = stage.run(recipe, silent).artifact
    found = [json.loads(line) for line in made.folder.read_text("trials.jsonl").splitlines()]
    assert [(line["status"], line.get("trained_as")) for line in found] == [("complete", None), ("complete", "000")]
    assert not made.folder.exists("trials/001/COMPLETE"), "the training is there already"
    assert found[0]["figures"]["validation_loss"] == found[1]["figures"]["validation_loss"]
    one, two = (artifacts.open_artifact(f"{name}.compress", f"{made.folder.url}/trials") for name in ("000", "001"))
    assert one.manifest["inputs"]["model.source"] == two.manifest["inputs"]["model.source"]
    assert tuple(each.recipe["compress"]["quantise"]["smoothquant"] for each in (one, two)) == (0.3, 0.8)
    weights = [each.folder.file_sha256("model/model.safetensors") for each in (one, two)]
    assert weights[0] != weights[1]
    for line in found:
        assert 0 < line["figures"]["latency.p50_ms"] <= line["figures"]["latency.p95_ms"]
        assert line["figures"]["compress.size_ratio"] <= 0.9
    best = int(made.metrics["best_trial"])
    assert made.folder.file_sha256("model/model.safetensors") == weights[best], "the winner is the compressed model"
