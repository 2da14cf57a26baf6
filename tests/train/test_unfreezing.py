"""Gradual unfreezing: which layers move when, and that those that wait keep every bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from manta.sections.optimisation import OWN, Unfreezing
from manta.train import optimizers
from manta.train.unfreezing import all_move_at, lowest
from tests.train.under_deepspeed import Under, lone_process, loss_of, model, settings

torch.set_num_threads(1)


def test_one_layer_at_a_time_from_the_top() -> None:
    """Three layers: at first the third and what is above it, the embeddings once all three move."""
    chosen = Unfreezing(every_steps=10)
    assert [lowest(step, 3, chosen) for step in (0, 9, 10, 19, 20, 29, 30, 1000)] == [3, 3, 2, 2, 1, 1, 0, 0]
    assert all_move_at(3, chosen) == 30


def test_several_layers_at_a_time_and_the_embeddings_never_with_them() -> None:
    chosen = Unfreezing(every_steps=5, layers=4)
    assert [lowest(step, 6, chosen) for step in (0, 4, 5, 9, 10)] == [3, 3, 1, 1, 0]
    assert all_move_at(6, chosen) == 10
    assert [lowest(step, 2, chosen) for step in (0, 4, 5)] == [1, 1, 0]


@pytest.mark.parametrize("layers", [1, 5, 12])
@pytest.mark.parametrize("at_a_time", [1, 3, 20])
def test_nothing_that_moves_ever_stops(layers: int, at_a_time: int) -> None:
    chosen = Unfreezing(every_steps=7, layers=at_a_time)
    depths = [lowest(step, layers, chosen) for step in range(200)]
    assert depths == sorted(depths, reverse=True) and depths[0] <= layers
    assert depths.index(0) == all_move_at(layers, chosen)


def test_without_the_section_all_move() -> None:
    assert lowest(0, 12, None) == 0


def moved(now: dict[str, Any], before: dict[str, Any]) -> set[str]:
    return {name for name in before if not torch.equal(now[name], before[name])}


def snapshot(module: Any) -> dict[str, Any]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def is_top(name: str) -> bool:
    return ".layers.1." in name or name == "model.norm.weight"


@pytest.mark.parametrize("name", OWN)
def test_waiting_weights_keep_every_bit_and_then_move(name: str) -> None:
    module, chosen = model(), settings(name, lr=1e-2, weight_decay=0.1)
    optimizer = optimizers.make(optimizers.groups(module, chosen, by_layer=True), chosen)
    when = Unfreezing(every_steps=2)
    states = [snapshot(module)]
    for step in range(5):
        optimizers.set_rates(optimizer.param_groups, chosen.lr, lowest(step, 2, when))
        optimizer.zero_grad()
        loss_of(module, step).backward()
        optimizer.step()
        states.append(snapshot(module))
    everything = set(states[0])
    assert moved(states[2], states[0]) == {n for n in everything if is_top(n)}
    assert moved(states[4], states[2]) == everything - {"model.embed_tokens.weight"}
    assert "model.embed_tokens.weight" in moved(states[5], states[4])


@pytest.fixture(scope="module")
def group_of_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with lone_process(tmp_path_factory.mktemp("group")):
        yield


@pytest.mark.integration
@pytest.mark.parametrize(("stage", "precision"), [(0, "bf16"), (1, "fp32"), (2, "bf16")])
def test_so_it_is_under_deepspeed(stage: int, precision: str, group_of_one: None) -> None:
    under = Under(settings("adamw", lr=1e-2, weight_decay=0.1, precision=precision), stage)
    before = snapshot(under.engine.module)
    for step in range(3):
        under.step(step, lowest=2)
    between = snapshot(under.engine.module)
    under.step(3)
    assert moved(between, before) == {name for name in before if is_top(name)}
    assert "model.embed_tokens.weight" in moved(snapshot(under.engine.module), between)
