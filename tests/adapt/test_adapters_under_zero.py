"""LoRA and its kin under DeepSpeed, one process without Ray: what is gathered is whole, frozen weights keep every bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manta import adapt
from manta.objectives import TABLE
from manta.sections.optimisation import Optimizer
from manta.sections.resources import TrainResources
from manta.train.engine import Engine
from tests.adapt.adaptable import METHODS, VOCAB, make, write
from tests.train.under_deepspeed import lone_process

pytestmark = pytest.mark.integration
ROWS, SEQ = 4, 16
STEPS = 3


@pytest.fixture(scope="module", autouse=True)
def group_of_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with lone_process(tmp_path_factory.mktemp("adapters")):
        yield


def batch(step: int) -> dict[str, np.ndarray]:
    return {"input_ids": np.random.default_rng(step).integers(3, VOCAB, (ROWS, SEQ)).astype(np.int32)}


def tuned(method: str, stage: int) -> tuple[Any, dict[str, Any], list[float]]:
    """(the adapted model, its gathered weights, losses) after some steps."""
    torch.manual_seed(0)
    model = adapt.apply(make("llama"), METHODS[method])
    optimizer = Optimizer.model_validate({"precision": "fp32", "lr": 1e-2, "weight_decay": 0.0})
    engine = Engine(
        model,
        TABLE["clm"].loss,
        optimizer,
        TrainResources.model_validate({"zero_stage": stage, "micro_batch": ROWS}),
        1,
    )
    losses = [engine.step(batch(step), [ROWS * (SEQ - 1)], lr=1e-2)[0] for step in range(STEPS)]
    weights = engine.weights()
    assert weights is not None
    return model, weights, losses


def by_hand(method: str) -> tuple[dict[str, Any], list[float]]:
    """The same steps without DeepSpeed."""
    torch.manual_seed(0)
    model = adapt.apply(make("llama"), METHODS[method])
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    losses = []
    for step in range(STEPS):
        sums, scored = TABLE["clm"].loss(model, {"input_ids": torch.tensor(batch(step)["input_ids"])})
        (sums / scored).backward()
        torch.nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(sums.detach() / scored))
    return copy.deepcopy(model.state_dict()), losses


@pytest.mark.parametrize("stage", [0, 3])
@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "prefix", "prompt"])
def test_adapters_learn_and_come_back_whole(method: str, stage: int, tmp_path: Path) -> None:
    from peft import PeftModel

    model, weights, losses = tuned(method, stage)
    expected, expected_losses = by_hand(method)
    assert losses == pytest.approx(expected_losses, rel=1e-4)
    assert weights.keys() == expected.keys()
    fresh = adapt.apply(make("llama"), METHODS[method])
    moving = {name for name, parameter in fresh.named_parameters() if parameter.requires_grad}
    start = fresh.state_dict()
    for name, tensor in weights.items():
        if name in moving:
            assert not torch.equal(tensor, start[name]), f"{name} learnt nothing"
            assert torch.allclose(tensor, expected[name], atol=1e-3), name
        else:
            assert torch.equal(tensor, start[name]), f"{name} was to stay"

    write(adapt.export(model, weights, METHODS[method]), tmp_path)
    ids = torch.tensor(batch(9)["input_ids"]).long()
    with torch.no_grad():
        again = PeftModel.from_pretrained(make("llama"), tmp_path / "adapter").eval()(input_ids=ids).logits[:, -SEQ:]
        fresh.load_state_dict(weights)
        assert torch.equal(again, fresh.eval()(input_ids=ids).logits)
        if (tmp_path / "model").exists():
            import transformers

            merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
            assert torch.allclose(merged.eval()(input_ids=ids).logits, again, atol=1e-5)
    assert (tmp_path / "model").exists() == (method in ("lora", "dora", "ia3"))


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "prefix", "prompt", "freeze"])
def test_what_stays_has_neither_gradient_nor_moments(method: str) -> None:
    torch.manual_seed(0)
    model = adapt.apply(make("llama"), METHODS[method])
    moving = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    optimizer = Optimizer.model_validate({"precision": "fp32", "lr": 1e-2})
    engine = Engine(model, TABLE["clm"].loss, optimizer, TrainResources(zero_stage=0, micro_batch=ROWS), 1)
    engine.step(batch(0), [ROWS * (SEQ - 1)], lr=1e-2)
    kept = [value for values in engine.moves.state.values() for value in values.values() if value.ndim]
    assert sum(value.numel() for value in kept) == 2 * moving
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)
