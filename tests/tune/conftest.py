"""A tiny model and examples to tune it on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory of a random model with a byte-level tokenizer."""
    from manta.data import tokenizer
    from manta.models import build, presets
    from manta.sections.model import NewModel

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer.train(iter(["a"]), 300, folder)
    config = presets.config(
        NewModel(preset="llama-tiny"), 300, {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 2}
    )
    build.build(config, seed=0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty questions and answers in one file."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    lines = [json.dumps({"input": f"say {word * 2}", "target": word}) for word in map(str, range(40))]
    file.write_text("\n".join(lines) + "\n")
    return file
