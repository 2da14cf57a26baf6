"""Trimmed, pruned and quantised in one chain: vLLM and Transformers read the outcome alike, and evaluation compares it with its base."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from manta import artifact as artifacts
from manta import recipe as recipes
from manta import stage
from manta.artifact import Artifact
from manta.progress import Progress

if TYPE_CHECKING:
    from tests.compress.conftest import Trained

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session")]

# Of a model with 3 blocks, 4 heads in 2 groups of 32, 384 neurons and 128 channels.
PRUNE = {"layers": 0.34, "intermediate": 0.25, "heads": 0.5, "hidden": 0.25, "multiple": 32}


def chain(trained: Trained, output: Path, name: str, **parts: Any) -> dict[str, Any]:
    calibration = {"shards": str(trained.shards), "samples": 16, "seq_len": 64}
    return {
        "kind": "compress",
        "name": name,
        "output": str(output),
        "model": {"source": str(trained.model)},
        "compress": {**parts, "calibration": calibration},
        "resources": {"cpus": 1},
    }


def make(recipe: dict[str, Any]) -> Artifact:
    return stage.run(recipes.validate(recipe), Progress(quiet=True)).artifact  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize(
    ("name", "parts", "least"),
    [
        ("cut", {"vocabulary": {"keep": 450}, "prune": PRUNE}, 5.0),
        ("depth", {"prune": {"layers": 0.34}, "quantise": {"algorithm": "rtn"}}, 30.0),
        ("zeros", {"prune": {"sparsity": {"share": 0.5, "method": "sparsegpt", "pattern": "2:4"}}}, 60.0),
    ],
)
def test_both_engines_read_it_alike(
    trained: Trained, output: Path, name: str, parts: dict[str, Any], least: float
) -> None:
    recipe = chain(trained, output, name, **parts)
    made = make(recipe)
    scores = make(
        {
            "kind": "evaluate",
            "name": f"{name}-scores",
            "output": str(output),
            "model": {"source": name, "base": str(trained.model)},
            "data": {"shards": str(trained.shards)},
            "evaluate": {"perplexity_rows": 16, "dtype": "float32"},
            "gate": {"engine_gap": 0.02},
        }
    )
    figures = scores.metrics
    assert figures["engine_gap"] < 0.02
    assert least < figures["perplexity_recovery"] < 102.0
    config = json.loads(made.folder.read_text("model/config.json"))
    if name == "cut":
        sizes = [
            config[key] for key in ("num_hidden_layers", "intermediate_size", "num_attention_heads", "hidden_size")
        ]
        assert sizes == [2, 288, 2, 96]
        assert (config["num_key_value_heads"], config["head_dim"]) == (1, 32)
        assert config["vocab_size"] == made.metrics["vocab_size"] <= 450
        assert made.metrics["size_ratio"] < 0.55
        assert figures["perplexity_tokens"] == 16 * 63, "counted by the tokens of the shards, whatever spells them"
    if name == "depth":
        assert made.metrics["layers_removed"] == made.metrics["layers_removed"][:1]
        assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    if name == "zeros":
        assert made.metrics["size_ratio"] == pytest.approx(1.0, abs=0.01)
        assert made.metrics["sparsity_gain"].startswith("none")


def test_killed_in_a_later_part_the_earlier_ones_are_not_done_again(
    trained: Trained, tmp_path: Path, manta_cli: Any, wait_until: Callable[..., None]
) -> None:
    recipe = chain(trained, tmp_path, "chain", vocabulary={"keep": 450}, prune={"layers": 0.34}, quantise={})
    file = tmp_path / "chain.yaml"
    file.write_text(yaml.safe_dump(recipe))
    first = manta_cli.start("compress", str(file))
    folder = tmp_path / "chain"
    # The last part's scratch folder is there from before the first block is quantised until the model is whole.
    wait_until(lambda: any(folder.glob(".model.*.tmp")) or first.poll() is not None, 200, "the last part has begun")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert not (folder / "COMPLETE").exists()
    earlier = {name: (folder / "work" / f"{name}.json").stat().st_mtime_ns for name in ("vocabulary", "prune")}
    made = make(recipe)
    assert {name: (folder / "work" / f"{name}.json").stat().st_mtime_ns for name in earlier} == earlier
    metrics = made.metrics
    assert (metrics["layers"], metrics["scheme"]) == (2, "w8a8")
    assert metrics["vocab_size"] <= 450
    assert not (folder / "work" / "prune").exists(), "what lies between is cleared away"
    again = make({**recipe, "name": "whole"})
    assert again.manifest["content"] == made.manifest["content"], "calibration rows are renumbered alike"
    assert artifacts.open_artifact("chain", str(tmp_path)).metrics["base_size_bytes"] > metrics["size_bytes"]
