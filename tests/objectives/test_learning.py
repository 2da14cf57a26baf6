"""Each objective, with the view that makes its batches, teaches a tiny model what it says: 60 steps, then it is asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from manta.data import views
from manta.data.layouts import denoising
from manta.data.shards import Index
from manta.data.tokenizer import Facts
from manta.data.views.words import Ids
from manta.objectives import attach, loss_of, mean
from manta.sections import layout
from manta.sections.objective import Objective
from tests.objectives import tiny
from tests.objectives.tiny import CLS, EOS, FIRST, MASK, PAD, SEP, VOCAB

STEPS, ROWS, SEQ = 60, 16, 24
PERIOD = 12
SENTINELS = tuple(range(VOCAB - 12, VOCAB))
NONE = np.zeros(VOCAB, dtype=bool)
SPECIAL = (np.arange(VOCAB) < FIRST) | (np.arange(VOCAB) >= SENTINELS[0])
IDS = Ids(SPECIAL, NONE, NONE, np.flatnonzero(~SPECIAL).astype(np.int32), MASK)
UNION: TypeAdapter[Any] = TypeAdapter(Objective)


def corpus(number: int, seq: int, seed: int = 0) -> np.ndarray:
    """Twelve tokens over and over, from one of two of them on: what stands at a place is not told by the place."""
    starts = np.random.default_rng(seed).integers(0, 2, (number, 1)) * 5
    return (FIRST + (starts + np.arange(seq)) % PERIOD).astype(np.int32)


def view_of(objective: Any, monkeypatch: pytest.MonkeyPatch, **shards: Any) -> Any:
    monkeypatch.setattr(views.words, "read", lambda *_: IDS)
    plain = {"seq_len": SEQ, "vocab_size": VOCAB, "eos_id": EOS, "bos_id": CLS, "pad_id": PAD, "splits": {}}
    return views.of(objective, Index(**plain | shards), None)


def train(
    model: Any, loss: Callable[..., Any], rows: Callable[[int], dict[str, np.ndarray]], view: Any, lr: float
) -> tuple[float, float]:
    """The losses of the first and of the last steps."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, (step + 1) / 10, 2 * (1 - step / STEPS))
        columns = rows(step)
        if view is not None:
            columns = view(columns, np.arange(ROWS) + step * ROWS, 0)
        batch = {name: torch.tensor(values) for name, values in columns.items()}
        value = mean(*loss(model, batch))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    model.eval()
    return losses[0], float(np.mean(losses[-5:]))


def text(seq: int = SEQ) -> Callable[[int], dict[str, np.ndarray]]:
    return lambda step: {"input_ids": corpus(ROWS, seq, step)}


def hidden(place: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Four rows of text of either kind, one token of each masked, and what they were."""
    rows = torch.tensor(np.stack([corpus(1, SEQ, seed)[0] for seed in range(4)])).long()
    masked = rows.clone()
    masked[:, place] = MASK
    return masked, rows


@torch.no_grad()
def test_clm() -> None:
    model = tiny.gpt2()
    with torch.enable_grad():
        first, last = train(model, loss_of(UNION.validate_python({"name": "clm"})), text(), None, lr=1e-2)
    assert first == pytest.approx(math.log(VOCAB), rel=0.1) and last < 0.3
    rows = torch.tensor(corpus(4, SEQ)).long()
    assert torch.equal(model(rows).logits.argmax(-1)[:, 4:-1], rows[:, 5:])


@torch.no_grad()
@pytest.mark.parametrize("unit", ["token", "span"])
def test_mlm(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = UNION.validate_python({"name": "mlm", "unit": unit, "mask_fraction": 0.3})
    model = tiny.bert()
    with torch.enable_grad():
        first, last = train(model, loss_of(objective), text(), view_of(objective, monkeypatch), lr=1e-2)
    assert first == pytest.approx(math.log(VOCAB), rel=0.1) and last < 0.8
    for place in (3, 11, 20):
        masked, rows = hidden(place)
        assert torch.equal(model(masked).logits.argmax(-1)[:, place], rows[:, place])


@torch.no_grad()
def test_multi_mlm(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = UNION.validate_python({"name": "multi_mlm", "mask_fraction": 0.3})
    model = attach(objective, tiny.bert(), seed=0)
    with torch.enable_grad():
        first, last = train(model, loss_of(objective), text(), view_of(objective, monkeypatch), lr=1e-2)
    assert first == pytest.approx(2 * math.log(VOCAB), rel=0.1) and last < 2.0
    for place in (3, 11, 20):
        masked, rows = hidden(place)
        logits, before = model(where=masked == MASK, input_ids=masked)
        # Which of the two rows it is takes longer to learn; the places beside it never hold what stands here.
        assert set(logits.argmax(-1).tolist()) <= set(rows[:, place].tolist())
        assert set(before.argmax(-1).tolist()) <= set(rows[:, place - 1].tolist())


def pairs(step: int) -> dict[str, np.ndarray]:
    """[CLS] A [SEP] B [SEP]: a true B goes on in the twelve tokens, any other is of twelve others."""
    half = (SEQ - 3) // 2
    ids = corpus(ROWS, 2 * half, step)
    label = (np.random.default_rng(step).random(ROWS) < 0.5).astype(np.int32)
    ids[:, half:] += PERIOD * label[:, None]
    whole = np.full((ROWS, SEQ), PAD, dtype=np.int32)
    whole[:, 0], whole[:, half + 1], whole[:, 2 * half + 2] = CLS, SEP, SEP
    whole[:, 1 : half + 1], whole[:, half + 2 : 2 * half + 2] = ids[:, :half], ids[:, half:]
    types = np.tile(((np.arange(SEQ) > half + 1) & (np.arange(SEQ) < 2 * half + 3)).astype(np.int32), (ROWS, 1))
    mask = (whole != PAD).astype(np.int32)
    return {"input_ids": whole, "token_type_ids": types, "attention_mask": mask, "next_sentence_label": label}


@torch.no_grad()
def test_nsp(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = UNION.validate_python({"name": "nsp", "mask_fraction": 0.3})
    model = tiny.bert("BertForPreTraining")
    view = view_of(objective, monkeypatch, layout="sentence_pairs", columns=tuple(pairs(0)))
    with torch.enable_grad():
        first, last = train(model, loss_of(objective), pairs, view, lr=1e-2)
    assert first == pytest.approx(math.log(VOCAB) + math.log(2), rel=0.1) and last < 1.3
    asked = pairs(1000)
    label = torch.tensor(asked.pop("next_sentence_label")).long()
    ids = asked["input_ids"].copy()
    asked["input_ids"][:, 5] = MASK
    found = model(**{name: torch.tensor(values).long() for name, values in asked.items()})
    assert torch.equal(found.seq_relationship_logits.argmax(-1), label)
    assert set(found.prediction_logits.argmax(-1)[:, 5].tolist()) <= set(ids[:, 5].tolist())


@torch.no_grad()
def test_t5(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = UNION.validate_python({"name": "denoising"})
    noise = denoising.noise(layout.Denoising(kind="denoising"), SEQ, Facts(VOCAB, EOS, None, PAD, SENTINELS))
    view = view_of(objective, monkeypatch, layout="denoising", noise=noise)
    model = tiny.t5()
    with torch.enable_grad():
        first, last = train(model, loss_of(objective), text(noise.tokens), view, lr=2e-2)
    assert first == pytest.approx(math.log(VOCAB), rel=0.4) and last < 1.0
    found = view({"input_ids": corpus(8, noise.tokens)}, np.arange(8) + 10**6, 0)
    labels = torch.tensor(found["labels"]).long()
    said = model(input_ids=torch.tensor(found["input_ids"]).long(), labels=labels).logits.argmax(-1)
    assert (said == labels).float().mean() > 0.8


@torch.no_grad()
def test_bart(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = UNION.validate_python({"name": "denoising", "method": {"kind": "infilling"}})
    view = view_of(objective, monkeypatch)
    model = tiny.bart()
    with torch.enable_grad():
        first, last = train(model, loss_of(objective), text(), view, lr=1e-2)
    assert first == pytest.approx(math.log(VOCAB), rel=0.1) and last < 0.5
    damaged = view({"input_ids": corpus(8, SEQ)}, np.arange(8) + 10**6, 0)
    found = {name: torch.tensor(values).long() for name, values in damaged.items()}
    assert (model(**found).logits.argmax(-1) == found["labels"]).float().mean() > 0.9


@torch.no_grad()
def test_distillation() -> None:
    """A teacher that knows the next token but one of two; the text says which: the student learns both."""
    given = {"teacher": "t", "teacher_mode": "live", "hard_weight": 0.0}
    objective = UNION.validate_python({"name": "distillation", **given})

    class Teacher(tiny.Told):
        """Three to one for the token after the next token of the twelve, against the next."""

        def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
            after = torch.full((*input_ids.shape, VOCAB), -30.0)
            after.scatter_(-1, (FIRST + (input_ids - FIRST + 1) % PERIOD)[..., None], 0.0)
            after.scatter_(-1, (FIRST + (input_ids - FIRST + 2) % PERIOD)[..., None], math.log(3))
            return SimpleNamespace(logits=self.output(after))

    model = tiny.llama()
    with torch.enable_grad():
        first, last = train(model, loss_of(objective, Teacher()), text(), None, lr=5e-3)
    assert first > 3.0 and last < 0.5
    rows = torch.tensor(corpus(4, SEQ)).long()
    assert torch.equal(model(rows).logits.argmax(-1)[:, :-2], rows[:, 2:])
