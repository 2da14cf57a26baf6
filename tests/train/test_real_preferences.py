"""A small decoder from scratch learns to weigh real text: what it prefers of texts that it has not seen, as it was measured.

The bounds lie a fifth of the way from the lowest measured figure to chance below it: another processor rounds otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tasks import paired, real_text
from tests.train.in_process import taught
from tests.train.under_deepspeed import group_of_one


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    torch.set_num_threads(1)
    with group_of_one(tmp_path_factory.mktemp("group")):
        yield


def llama(folder: Path, texts: list[str]) -> Path:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4}
    return paired.llama(folder, texts, vocab_size=1000, **sizes)


def test_sentences_are_preferred_to_the_same_words_in_disorder(tmp_path: Path, no_processes: None) -> None:
    """Of two seeds 95 and 96 per cent, mean margins of 1.3 and 1.4 nats; a model that is its own reference has 50 and 0."""
    seen, unseen = real_text.sides(real_text.in_order()[:1000], 200)
    texts = [text for pair in seen for text in (pair["input"], pair["chosen"])]
    task = {"name": "preference", "max_tokens": 48}
    done = taught(task, seen, unseen, llama(tmp_path / "llama", texts), tmp_path, 1e-3, 60)
    assert done.first["score"] == 50.0 and done.first["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert done.figures["score"] > 86 and done.figures["margin"] > 1.0
