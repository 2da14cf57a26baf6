"""A small tokenizer for the tasks' tests: one token a byte, with the chat template that `prepare` gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from manta.data import tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.train(iter(["a"]), 300, folder)  # no pair occurs twice: nothing is merged, every byte is a token
    (folder / "config.json").write_text('{"max_position_embeddings": 512}')
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer_folder)
