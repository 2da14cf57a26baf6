"""A tiny random Llama that vLLM's CPU engine takes, and a recipe that serves it, for the tests that start an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manta import recipe as recipes


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A Hugging Face directory with 2 layers and a byte-level tokenizer."""
    from manta.data import tokenizer
    from manta.models import build, presets
    from manta.sections.model import NewModel

    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer.train(iter(["the quick brown fox jumps over the lazy dog"] * 8), 512, folder)
    facts = tokenizer.facts(tokenizer.find(str(folder)))
    special = {"bos_token_id": facts.bos_id, "eos_token_id": facts.eos_id, "pad_token_id": facts.pad_id}
    build.build(presets.config(NewModel(preset="llama-tiny"), 512, special), seed=0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def serve_recipe() -> Callable[..., Any]:
    """A serve recipe for `model` below `output`, on a free port, with changes to its `serve` section."""

    def make(output: Path | str, model: Path, **serve: Any) -> Any:
        settings = {"port": 0, "kv_cache_gib": 0.25, "max_model_len": 256, **serve}
        source = {"source": str(model)}
        return recipes.validate(
            {"kind": "serve", "name": "tiny", "output": str(output), "model": source, "serve": settings}
        )

    return make
