"""The model directory of a recipe's input, and what its configuration says of it."""

from __future__ import annotations

import json
from typing import Any

from manta.artifact import Resolved
from manta.errors import InputError
from manta.storage import Folder


def longest(config: dict[str, Any]) -> int | None:
    """The tokens that a model takes, as vLLM has it: its positions, unless they are stretched."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        return None
    return config.get("max_position_embeddings") or config.get("n_positions")


def find_model(model: Resolved) -> tuple[str, dict[str, Any]]:
    """Where the Hugging Face directory of an input is, and its configuration. Raises InputError when there is none to serve."""
    if model.kind == "package":
        raise InputError(
            f"{model.role} = {model.ref!r}: a package's model is not served directly: name an artifact "
            "(`manta finetune` makes one from it) or a Hugging Face directory"
        )
    if model.kind == "directory":
        return model.path, json.loads(Folder(model.path).read_text("config.json"))
    folder = Folder(model.path) / "model"
    if not folder.exists("config.json"):
        adapter = (Folder(model.path) / "adapter").exists("adapter_config.json")
        remedy = (
            "it holds only an adapter: set adapt.merge: true and run the stage again (prefix and prompt cannot be merged: "
            "tune with adapt.method=lora to serve)"
            if adapter
            else "run the stage that makes it again"
        )
        raise InputError(f"{model.role} = {model.ref!r}: {folder.url} holds no model (config.json): {remedy}")
    return folder.url, json.loads(folder.read_text("config.json"))
