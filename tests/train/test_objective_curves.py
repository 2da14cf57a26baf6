"""Every objective teaches a small model of its family real text: from guessing down to a loss that was measured once.

The bands are on both sides: a loss that falls too fast sees what it is to predict, one that falls too slowly is asked
something else. Nothing here is distributed: plain PyTorch, one thread, the library's own rows, views, models and losses.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from manta.data import layouts, tokenizer, views
from manta.data.layouts.denoising import noise
from manta.data.order import rows_of
from manta.data.shards import Index
from manta.data.tokenizers import engines
from manta.models import presets
from manta.models.build import build
from manta.objectives import TABLE, attach, loss_of, mean
from manta.sections.layout import Layout
from manta.sections.model import NewModel
from manta.sections.objective import Objective
from manta.sections.optimisation import Schedule
from manta.sections.prepare import Tokenizer
from manta.storage import Folder
from manta.train.schedule import learning_rate

SEQ, BATCH, STEPS = 64, 16, 100
WORDPIECE = {"type": "wordpiece", "vocab_size": 600}
SENTINELS = {"type": "unigram", "vocab_size": 600, "sentinels": 40}


class Case(NamedTuple):
    """An objective, what it is trained on, and where its last ten steps' mean loss is: a part's name -> (low, high)."""

    objective: dict[str, Any]
    preset: str
    layout: str
    tokenizer: dict[str, Any]
    ends: dict[str, tuple[float, float]]
    lr: float = 5e-3
    texts: int = 12  # of real ones: few enough to be learnt
    above_chance: float = 0.0  # at the start, nats


CASES = {
    "clm": Case({"name": "clm"}, "llama-tiny", "concat", {"vocab_size": 600}, {"tokens": (0.12, 0.20)}),
    "mlm": Case({"name": "mlm"}, "bert-tiny", "best_fit", WORDPIECE, {"tokens": (3.1, 3.5)}),
    "nsp": Case({"name": "nsp"}, "bert-tiny", "sentence_pairs", WORDPIECE, {"tokens": (4.0, 4.28), "pairs": (0.03, 0.2)}, 3e-3),
    "multi_mlm": Case({"name": "multi_mlm"}, "bert-tiny", "best_fit", WORDPIECE, {"tokens": (3.75, 4.15), "predecessors": (4.15, 4.55)}, 3e-3),
    # T5's first logits are wide, which costs a nat; few texts, or it would not yet use its encoder.
    "denoising": Case({"name": "denoising"}, "t5-tiny", "denoising", SENTINELS, {"tokens": (2.6, 2.82)}, above_chance=1.1, texts=3),
}  # fmt: skip


def lay(case: Case, texts: list[str], folder: Path) -> tuple[dict[str, np.ndarray], Index]:
    """The texts as rows, and the index that describes them."""
    settings: Any = TypeAdapter(Layout).validate_python({"kind": case.layout})
    wanted = Tokenizer.model_validate(case.tokenizer)
    tokenizer.train(iter(texts), wanted.vocab_size, folder, wanted)
    known = tokenizer.facts(Folder(folder))
    encode = engines.build("tokenizers", (folder / "tokenizer.json").read_text())
    assert encode is not None
    documents = layouts.Documents(texts, ["en"] * len(texts), encode, known, SEQ, seed=0)
    rows = layouts.LAYOUTS[case.layout](documents, settings)
    made = noise(settings, SEQ, known) if case.layout == "denoising" else None
    index = Index(
        SEQ, known.vocab_size, known.eos_id, known.bos_id, known.pad_id, {}, (), case.layout, tuple(rows.columns), made
    )  # fmt: skip
    return rows.columns, index


def curve(case: Case, columns: dict[str, np.ndarray], index: Index, folder: Path) -> np.ndarray:
    """The losses of each step, (STEPS, parts)."""
    torch.set_num_threads(1)
    objective: Any = TypeAdapter(Objective).validate_python(case.objective)
    name = objective.name
    ids: dict[str, int | None] = {
        "bos_token_id": index.bos_id,
        "eos_token_id": index.eos_id,
        "pad_token_id": index.pad_id,
    }
    sizes: dict[str, Any] = {} if case.preset == "llama-tiny" else {"dropout": 0.0}
    new = NewModel.model_validate({"preset": case.preset, **sizes})
    model = attach(objective, build(presets.config(new, index.vocab_size, ids, name), 0, name), 0)
    view, loss, model = views.of(objective, index, Folder(folder)), loss_of(objective), model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=case.lr, betas=(0.9, 0.95), weight_decay=0.0)
    losses = []
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = learning_rate(step, STEPS, case.lr, Schedule())
        samples = np.arange(step * BATCH, (step + 1) * BATCH)
        chosen = rows_of(samples, len(columns["input_ids"]), 0)
        stored = {key: values[chosen] for key, values in columns.items()}
        batch = view(stored, samples, 0) if view is not None else stored
        sums, counts = loss(model, {key: torch.tensor(values) for key, values in batch.items()})
        assert counts.tolist() == np.squeeze(TABLE[name].scored(batch)).tolist()
        value = mean(sums, counts)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append((sums / counts).detach().reshape(-1).tolist())
    return np.array(losses)


@pytest.mark.parametrize("name", CASES)
def test_the_curve_is_the_measured_one(name: str, tiny_corpus: Path, tmp_path: Path) -> None:
    case = CASES[name]
    lines = [line for file in sorted(tiny_corpus.glob("?.jsonl")) for line in file.read_text().splitlines()]
    columns, index = lay(case, [json.loads(line)["text"] for line in lines[: case.texts]], tmp_path)
    losses = curve(case, columns, index, tmp_path)
    chance = {"tokens": math.log(index.vocab_size), "predecessors": math.log(index.vocab_size), "pairs": math.log(2)}
    for place, part in enumerate(TABLE[name].parts):
        first, last = losses[0, place], losses[-10:, place].mean()
        assert first == pytest.approx(chance[part] + case.above_chance, rel=0.05), f"{part}: it begins by guessing"
        low, high = case.ends[part]
        assert low < last < high, f"{part}: the last ten steps' mean"
