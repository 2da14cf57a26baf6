"""An encoder from scratch learns from docstrings which summary belongs to which text: scores that were measured once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manta.data import tokenizer
from manta.data.order import rows_of
from manta.models import presets
from manta.models.build import build
from manta.objectives import attach, loss_of, mean
from manta.objectives.contrast import vectors
from manta.sections.model import NewModel
from manta.sections.objective import Contrast
from manta.sections.prepare import Tokenizer
from manta.sections.tasks import EmbeddingTask
from manta.tasks import embedding, labels
from manta.tasks.encoding import rows

STEPS, BATCH, KEPT, VOCAB = 24, 32, 60, 600
SIZES = {"preset": "bert-tiny", "dropout": 0.0, "hidden_size": 64, "intermediate_size": 128, "num_layers": 1}
TASK = EmbeddingTask(name="embedding", max_tokens=40, group=32)


def pairs(corpus: Path) -> list[dict[str, Any]]:
    """The first paragraph of each docstring and what follows it."""
    lines = [line for file in sorted(corpus.glob("?.jsonl")) for line in file.read_text().splitlines()]
    parts = [" ".join(json.loads(line)["text"].split()).partition(". ") for line in lines]
    return [{"text": title, "positive": rest} for title, _, rest in dict.fromkeys(parts) if title and rest]


def columns_of(examples: list[dict[str, Any]], reader: Any) -> dict[str, np.ndarray]:
    encoded = [embedding.encode(example, reader, TASK) for example in examples]
    padded = {"input_ids": reader.pad_token_id, "positive_input_ids": reader.pad_token_id, **embedding.PADDED}
    found: dict[str, np.ndarray] = rows.stacked(encoded, TASK.max_tokens, padded)
    return found


def scores(model: Any, columns: dict[str, np.ndarray]) -> dict[str, float]:
    model.eval()
    sides = []
    for prefix in ("", "positive_"):
        given = {
            name: torch.tensor(columns[prefix + name]) for name in ("input_ids", "attention_mask", "token_type_ids")
        }
        with torch.no_grad():
            sides.append(vectors(model, given).numpy())
    ranks = embedding.predictions(np.stack(sides, axis=1), columns, TASK)
    return embedding.score(ranks, ranks)


def test_summaries_find_their_texts(tiny_corpus: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    examples = pairs(tiny_corpus)
    wanted = Tokenizer.model_validate({"type": "wordpiece", "vocab_size": VOCAB, "lowercase": True})
    tokenizer.train((text for example in examples for text in example.values()), VOCAB, tmp_path, wanted)
    (tmp_path / "config.json").write_text('{"type_vocab_size": 2}')
    reader = labels.tokenizer(tmp_path)
    train, held_out = columns_of(examples[:-KEPT], reader), columns_of(examples[-KEPT:], reader)
    special: dict[str, int | None] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": reader.pad_token_id}
    new = NewModel.model_validate(SIZES)
    objective = Contrast(name="contrast", group=TASK.group, temperature=0.1)
    model = attach(objective, build(presets.config(new, len(reader), special, "contrast"), 0, "contrast"), 0)
    loss, first = loss_of(objective), (scores(model, train), scores(model, held_out))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0.01)
    losses = []
    for step in range(STEPS):
        model.train()
        chosen = rows_of(np.arange(step * BATCH, (step + 1) * BATCH), len(train["labels"]), 0)
        value = mean(*loss(model, {name: torch.tensor(values[chosen]) for name, values in train.items()}))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    known, unknown = scores(model, train), scores(model, held_out)
    assert losses[0] == pytest.approx(math.log(TASK.group), rel=0.05), "it begins by guessing"
    assert 0.1 < np.mean(losses[-4:]) < 0.6
    # Of 311 texts that were shown two or three times nearly all are found; of 60 others, chance finding 1.7 per cent, what
    # so few texts teach.
    assert first[0]["score"] < 10 and 78 < known["score"] < 93 and 86 < known["mrr"] < 96
    assert 10 <= unknown["score"] <= 30 and unknown["mrr"] > first[1]["mrr"] > 10
