"""Compress, then evaluate, with vLLM and Transformers: figures agree, wrong files are refused, reruns repeat."""

from __future__ import annotations

import json
import math
import os
import shutil
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
from manta.errors import GateRefused
from manta.progress import Progress

if TYPE_CHECKING:
    from tests.compress.conftest import Trained

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_session")]


def compress_recipe(trained: Trained, output: Path) -> dict[str, Any]:
    calibration = {"shards": str(trained.shards), "samples": 16, "seq_len": 64}
    return {
        "kind": "compress",
        "name": "small",
        "output": str(output),
        "model": {"source": str(trained.model)},
        "compress": {"quantise": {}, "calibration": calibration},
        "resources": {"cpus": 1},
    }


def evaluate_recipe(trained: Trained, output: Path, source: str, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "evaluate",
        "name": "scores",
        "output": str(output),
        "model": {"source": source, "base": str(trained.model)},
        "data": {"shards": str(trained.shards)},
        "evaluate": {"perplexity_rows": 16},
        "gate": {"perplexity_recovery": 95.0},
    } | changes


def make(recipe: dict[str, Any]) -> Artifact:
    return stage.run(recipes.validate(recipe), Progress(quiet=True)).artifact  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def compressed(trained: Trained, output: Path) -> Artifact:
    return make(compress_recipe(trained, output))


def tensors(model: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(model / "model.safetensors"))


def transformers_perplexity(model: Path, rows: Any) -> float:
    """Independent of the evaluate room: the loss that Transformers itself reports."""
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    batch = torch.from_numpy(rows).long()
    with torch.inference_mode():
        return math.exp(float(loaded(input_ids=batch, labels=batch).loss))


def test_only_the_blocks_are_quantised(trained: Trained, compressed: Artifact) -> None:
    import torch

    before, after = tensors(trained.model), tensors(Path(compressed.folder.url) / "model")
    assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    assert after["model.norm.weight"].dtype == torch.bfloat16
    projections = [name for name in before if name.endswith("_proj.weight")]
    assert len(projections) == 3 * 7
    for name in projections:
        weight, scale = after[name], after[f"{name}_scale"]
        assert (weight.dtype, scale.dtype) == (torch.int8, torch.float32)
        error = (weight.float() * scale - before[name].float()).abs()
        # GPTQ moves columns to make up for others, by a few steps of the scale at most.
        assert float((error / scale).median()) < 1.0
    metrics = compressed.metrics
    assert metrics["size_bytes"] < 0.75 * metrics["base_size_bytes"]
    assert metrics["calibration_tokens"] == 16 * 64
    assert metrics["parameters"] == sum(tensor.numel() for tensor in before.values())


@pytest.mark.parametrize(
    ("algorithm", "strength", "blocks"), [("rtn", None, []), ("rtn", 0.5, [1, 2, 3]), ("gptq", 0.8, [1, 2, 3])]
)
def test_each_way_keeps_what_was_learnt(
    trained: Trained, tmp_path: Path, algorithm: str, strength: float | None, blocks: list[int]
) -> None:
    from manta.compress import quantise
    from manta.data.sample import sample_rows
    from manta.sections.quantise import Quantise
    from manta.storage import Folder

    chosen = Quantise.model_validate({"algorithm": algorithm, "smoothquant": strength})
    train, validation = (sample_rows(Folder(trained.shards), split, 16, seed=0) for split in ("train", "validation"))
    reported: list[int] = []
    rows = train if chosen.reads_rows else None
    said = quantise.apply(trained.model, tmp_path, chosen, rows, lambda done, total: reported.append(done))
    assert said == {"scheme": "w8a8", "algorithm": algorithm}
    assert reported == blocks
    before, after = (transformers_perplexity(model, validation) for model in (trained.model, tmp_path))
    assert after == pytest.approx(before, rel=0.03)


def test_the_tokenizer_comes_along_as_it_is(trained: Trained, compressed: Artifact) -> None:
    model = Path(compressed.folder.url) / "model"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (model / name).read_bytes() == (trained.model / name).read_bytes()


def test_both_engines_agree_and_the_model_passes(trained: Trained, output: Path, compressed: Artifact) -> None:
    from manta.data.sample import sample_rows
    from manta.storage import Folder

    task = {"name": "summarisation", "max_input_tokens": 32, "max_target_tokens": 8}
    recipe = evaluate_recipe(
        trained,
        output,
        "small",
        data={"shards": str(trained.shards), "examples": str(trained.shards)},
        evaluate={"perplexity_rows": 16, "task": task, "task_samples": 4},
    )
    made = make(recipe)
    figures = made.metrics
    rows = sample_rows(Folder(trained.shards), "validation", 16, seed=0)
    assert figures["base_perplexity"] == pytest.approx(transformers_perplexity(trained.model, rows), rel=0.01)
    assert figures["perplexity"] == pytest.approx(
        transformers_perplexity(Path(compressed.folder.url) / "model", rows), rel=0.03
    )
    assert figures["base_perplexity"] < 200  # chance is 512
    assert figures["engine_gap"] < 0.03
    assert figures["base_engine_gap"] < 0.01
    assert 97.0 < figures["perplexity_recovery"] < 103.0
    assert figures["passed"] is True
    assert made.manifest["inputs"]["model.source"]["fingerprint"] == compressed.fingerprint
    report = json.loads(made.folder.read_text("scores.json"))
    low, high = report["intervals"]["perplexity_recovery"]
    assert low < figures["perplexity_recovery"] < high
    assert [example["reference"] for example in report["examples"]] == ["the value"] * 4
    assert {"prediction", "base_prediction", "score", "base_score"} <= set(report["examples"][0])


@pytest.mark.parametrize("scheme", ["w8a8", "w4a16"])
def test_wrong_scales_are_refused_now_and_later(
    trained: Trained, output: Path, compressed: Artifact, scheme: str
) -> None:
    """The file loads and runs; only the figures can tell that two layers' scales were swapped."""
    from safetensors.torch import save_file

    if scheme == "w8a8":
        made = compressed
    else:
        rounded = {"scheme": scheme, "algorithm": "rtn"}
        made = make(
            compress_recipe(trained, output) | {"name": "four", "compress": {"quantise": rounded, "calibration": None}}
        )
    broken = output / f"broken-{scheme}"
    shutil.copytree(Path(made.folder.url) / "model", broken)
    weights = tensors(broken)
    one, other = (f"model.layers.{n}.mlp.down_proj.weight_scale" for n in (0, 2))
    weights[one], weights[other] = 3 * weights[other], weights[one] / 3
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    settings = {"engine": "transformers", "perplexity_rows": 16}
    recipe = evaluate_recipe(trained, output, str(broken), name=f"scores-{scheme}", evaluate=settings)
    with pytest.raises(GateRefused, match="perplexity_recovery"):
        make(recipe)
    written = artifacts.open_artifact(f"scores-{scheme}", str(output))  # complete, with its figures
    assert written.metrics["passed"] is False
    assert written.metrics["perplexity_recovery"] < 95.0
    with pytest.raises(GateRefused, match="perplexity_recovery"):
        make(recipe)


def test_killed_half_way_it_makes_the_same_bytes(
    trained: Trained, compressed: Artifact, tmp_path: Path, manta_cli: Any, wait_until: Callable[..., None]
) -> None:
    recipe = compress_recipe(trained, tmp_path)
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(recipe))
    first = manta_cli.start("compress", str(file))
    folder = tmp_path / "small"
    # The scratch folder is there from before the first block is quantised until the model is whole.
    wait_until(lambda: any(folder.glob(".model.*.tmp")) or first.poll() is not None, 120, "the model is being made")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert not (folder / "COMPLETE").exists()
    again = make(recipe)
    assert again.fingerprint == compressed.fingerprint
    assert again.manifest["content"] == compressed.manifest["content"]
