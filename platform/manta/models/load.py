"""Finds the Hugging Face directory behind a recipe's model input, and loads it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manta.artifact import Resolved
from manta.storage import Folder

DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


def model_url(resolved: Resolved) -> str:
    """Where the model's files are: `model/` of an artifact, else the directory itself; packages are converted first."""
    if resolved.kind == "package":
        from manta.models.package import convert

        return str(convert(resolved.ref))
    return resolved.path if resolved.kind == "directory" else f"{resolved.path}/model"


@contextlib.contextmanager
def model_folder(resolved: Resolved) -> Iterator[Path]:
    """Yield a local Hugging Face directory: the place itself, or a temporary copy of a remote one."""
    with Folder(model_url(resolved)).local() as path:
        yield path


def model_config(url: str) -> dict[str, Any]:
    """config.json of the Hugging Face directory at `url`, without torch."""
    return dict(json.loads(Folder(url).read_text("config.json")))


def load(folder: Path, precision: str = "fp32") -> Any:
    """The causal language model of a local Hugging Face directory, in `precision` (bf16 or fp32), on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, DTYPES[precision]), local_files_only=True)
