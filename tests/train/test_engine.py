"""The engine by itself, one process without Ray: every ZeRO stage steps, resumes to the bit, and gives its weights back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manta import kernels
from manta.models.build import build
from manta.models.presets import config
from manta.objectives import TABLE
from manta.schema import NewModel, Optimizer, TrainResources
from manta.train import engine as engines
from manta.train.snapshot import Snapshot

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("alone")]
VOCAB, SEQ, ROWS = 64, 16, 4


def batch(step: int) -> dict[str, np.ndarray]:
    return {"input_ids": np.random.default_rng(step).integers(0, VOCAB, (ROWS, SEQ)).astype(np.int32)}


def start(stage: int, precision: str, micro_batch: int = ROWS, freeze: bool = False) -> engines.Engine:
    model = build(config(NewModel(preset="llama-tiny"), VOCAB, {}), seed=3)
    if freeze:
        model.model.embed_tokens.weight.requires_grad_(False)
    resources = TrainResources(zero_stage=stage, micro_batch=micro_batch)
    optimizer = Optimizer.model_validate({"precision": precision, "lr": 1e-2})
    return engines.Engine(model, TABLE["clm"].loss, optimizer, resources, accumulation=ROWS // micro_batch)


def train(engine: engines.Engine, steps: range) -> list[tuple[float, float]]:
    return [engine.step(batch(step), ROWS * (SEQ - 1), lr=1e-2) for step in steps]


def write(snapshot: Snapshot, folder: Path) -> None:
    folder.mkdir()
    sizes = dict(snapshot.write(folder))
    assert sizes == {path.name: path.stat().st_size for path in folder.iterdir()}, "nothing else is written"


def weights(engine: engines.Engine) -> dict[str, Any]:
    found = engine.weights()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("stage", "precision"), [(0, "bf16"), (1, "bf16"), (2, "bf16"), (3, "bf16"), (0, "fp32"), (1, "fp32"), (3, "fp32")]
)
def test_a_resumed_engine_continues_to_the_bit(stage: int, precision: str, tmp_path: Path) -> None:
    whole = start(stage, precision)
    expected = train(whole, range(6))
    assert expected[0][0] == pytest.approx(np.log(VOCAB), rel=0.03)

    first = start(stage, precision)
    before = train(first, range(3))
    copied = first.snapshot("step-3")
    train(first, range(3, 5))  # training goes on before the copy is written
    write(copied, tmp_path / "step-3")
    second = start(stage, precision)
    second.load(tmp_path, "step-3")
    assert before + train(second, range(3, 6)) == expected
    ours, theirs = weights(second), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_first_step_moves_the_weights() -> None:
    engine = start(1, "fp32")
    before = {name: tensor.clone() for name, tensor in weights(engine).items()}
    train(engine, range(1))
    moved = [name for name, tensor in weights(engine).items() if not torch.equal(tensor, before[name])]
    assert set(moved) == set(before)


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_accumulation_changes_nothing_but_rounding(stage: int) -> None:
    at_once, in_parts = train(start(stage, "fp32"), range(5)), train(start(stage, "fp32", micro_batch=1), range(5))
    assert np.allclose(at_once, in_parts, rtol=1e-4)


def test_the_step_is_the_textbook_one() -> None:
    """Against plain PyTorch: mean loss over tokens, gradient clipped to norm 1, AdamW without decay on vectors."""
    engine = start(0, "fp32")
    ours = train(engine, range(4))
    model = build(config(NewModel(preset="llama-tiny"), VOCAB, {}), seed=3)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1}, {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0}],
        lr=1e-2, betas=(0.9, 0.95), eps=1e-8,
    )  # fmt: skip
    theirs = []
    for step in range(4):
        input_ids = torch.tensor(batch(step)["input_ids"]).long()
        loss = model(input_ids=input_ids, labels=input_ids).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        theirs.append((float(loss.detach()), float(norm)))
    assert np.allclose(ours, theirs, rtol=1e-4)


def test_frozen_weights_stay_and_resume(tmp_path: Path) -> None:
    expected = train(start(1, "bf16", freeze=True), range(4))
    first = start(1, "bf16", freeze=True)
    embedding = weights(first)["model.embed_tokens.weight"].clone()
    train(first, range(2))
    assert torch.equal(weights(first)["model.embed_tokens.weight"], embedding)
    write(first.snapshot("step-2"), tmp_path / "step-2")
    second = start(1, "bf16", freeze=True)
    second.load(tmp_path, "step-2")
    assert train(second, range(2, 4)) == expected[2:]


def test_evaluation_leaves_training_alone() -> None:
    plain, evaluated = start(1, "bf16"), start(1, "bf16")
    train(plain, range(2))
    train(evaluated, range(2))
    rows = batch(9)
    rows["labels"] = np.where(np.arange(SEQ) < 8, -100, rows["input_ids"]).astype(np.int32)
    (loss,), (scored,) = evaluated.evaluate(rows)
    assert scored == ROWS * 8
    assert loss / scored == pytest.approx(np.log(VOCAB), rel=0.2)
    assert train(plain, range(2, 4)) == train(evaluated, range(2, 4))


def test_it_takes_the_quicker_kernels_for_this_process() -> None:
    torch.manual_seed(0)
    ours = kernels.bernoulli_(torch.empty(100), 0.5)
    torch.manual_seed(0)
    assert torch.equal(torch.empty(100).bernoulli_(0.5), ours) != kernels.is_intel()
