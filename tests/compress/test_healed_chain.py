"""Pruned, healed by the whole model, quantised: one command, killed with everything of it, goes on where it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from manta import artifact as artifacts
from manta.storage import Folder
from manta.train.metrics import read

if TYPE_CHECKING:
    from tests.compress.conftest import Trained

pytestmark = pytest.mark.integration

STEPS, KEPT_EVERY = 30, 5


def write_chain(trained: Trained, folder: Path) -> Path:
    """A pipeline of three recipes beside it."""
    calibration = {"shards": str(trained.shards), "samples": 16, "seq_len": 64}
    stages: dict[str, dict[str, Any]] = {
        "pruned": {
            "kind": "compress",
            "model": {"source": str(trained.model)},
            "compress": {"prune": {"layers": 0.34}, "calibration": calibration},
        },
        "healed": {
            "kind": "pretrain",
            "data": {"shards": str(trained.shards)},
            "model": {"source": "pruned"},
            "objective": {"name": "distillation", "teacher": str(trained.model)},
            "optimizer": {"lr": 1.0e-3, "precision": "fp32", "weight_decay": 0.0},
            "batch": {"samples": 8},
            "stop": {"steps": STEPS},
            "checkpoint": {"every_steps": KEPT_EVERY, "keep": 1},
            "evaluate": {"every_steps": STEPS, "max_rows": 16},
            "resources": {"micro_batch": 8, "zero_stage": 0},
        },
        "small": {
            "kind": "compress",
            "model": {"source": "healed"},
            "compress": {"quantise": {"scheme": "w8a8"}, "calibration": calibration},
        },
    }
    for name, recipe in stages.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "output": str(folder), **recipe}))
    pipeline = {"kind": "pipeline", "name": "smaller", "output": str(folder), "stages": [f"{name}.yaml" for name in stages]}  # fmt: skip
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
    return folder / "pipeline.yaml"


def test_killed_while_it_heals_it_goes_on_to_the_end(
    trained: Trained, tmp_path: Path, manta_cli: Any, wait_until: Callable[..., None]
) -> None:
    pipeline = write_chain(trained, tmp_path)
    first = manta_cli.start("run", str(pipeline))
    healed = Folder(tmp_path / "healed")
    wait_until(lambda: first.poll() is not None or len(read(healed)) > 2 * KEPT_EVERY, 240, "no steps are trained")
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (tmp_path / "healed" / "COMPLETE").exists()
    pruned = (tmp_path / "pruned" / "COMPLETE").stat().st_mtime_ns

    done = manta_cli("run", pipeline)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pruned" / "COMPLETE").stat().st_mtime_ns == pruned, "what was whole is not made again"
    taught, small = (artifacts.open_artifact(name, str(tmp_path)) for name in ("healed", "small"))
    assert taught.metrics["resumed_from_step"] >= KEPT_EVERY
    assert taught.metrics["steps"] == STEPS
    losses = [line["loss"] for line in read(taught.folder) if line["kind"] == "train"]
    assert len(losses) == STEPS and losses[-1] < losses[0], "each step once, and it learns"
    assert small.metrics["scheme"] == "w8a8"
    lineage = artifacts.lineage(small)
    assert lineage["inputs"]["model.source"]["path"] == str(tmp_path / "healed")
