"""A pre-training run as small as can be, for tests of what happens around it: rows that count upwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from manta import artifact, stage
from manta import recipe as recipes
from manta.data import tokenizer
from manta.data.shards import Index, Shard, save_index, write_shard
from manta.progress import Progress
from manta.storage import Folder

VOCAB, SEQ, STEPS = 300, 32, 60


def write_shards(output: Path) -> None:
    """The artifact `shards`: rows that count upwards from a random number, within 16 of the 300 tokens."""
    folder = Folder(output / "shards")
    rows = ((np.random.default_rng(0).integers(0, 16, (500, 1)) + np.arange(SEQ)) % 16 + 20).astype(np.int32)
    splits: dict[str, tuple[Shard, ...]] = {
        "train": (write_shard(folder, "train/00000.parquet", {"input_ids": rows[:450]}),),
        "validation": (write_shard(folder, "validation/00000.parquet", {"input_ids": rows[450:]}),),
    }
    save_index(folder, Index(SEQ, VOCAB, 0, 0, 2, splits))
    (output / "shards/tokenizer").mkdir()
    tokenizer.train(iter(["a"]), VOCAB, output / "shards/tokenizer")
    manifest = {
        "kind": "prepare",
        "name": "shards",
        "fingerprint": "f" * 64,
        "content": "c" * 64,
        "inputs": {},
        "metrics": {},
    }
    folder.write_text(artifact.MANIFEST, json.dumps(manifest))
    folder.write_text(artifact.COMPLETE, "")


def raw_recipe(output: str, name: str = "base", **resources: Any) -> dict[str, Any]:
    return {
        "kind": "pretrain", "name": name, "output": output, "data": {"shards": "shards"}, "model": {"preset": "llama-tiny", "num_layers": 1},
        "optimizer": {"lr": 1e-2, "precision": "fp32"}, "batch": {"samples": 8}, "stop": {"steps": STEPS}, "checkpoint": {"every_steps": 10, "keep": 2},
        "evaluate": {"every_steps": 20, "max_rows": 31}, "resources": {"workers": 2, "micro_batch": 2, **resources},
    }  # fmt: skip


def run(raw: dict[str, Any], progress: Progress | None = None) -> artifact.Artifact:
    recipe = recipes.validate(raw)
    assert not isinstance(recipe, recipes.PipelineRecipe)
    return stage.run(recipe, progress or Progress(quiet=True)).artifact
