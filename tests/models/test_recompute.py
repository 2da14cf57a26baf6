"""Layers that are computed again on the way back: the same losses and gradients to the bit, and fewer activations kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from manta.errors import InputError
from manta.models.build import recompute
from manta.objectives.predecessor import WithPredecessor
from tests.models.samples import OBJECTIVES, inputs, tiny


def step(model: Any, family: str) -> tuple[float, list[torch.Tensor], int]:
    """The loss of a step with dropout, its gradients, and the bytes that were kept for the way back."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    model.train()
    torch.manual_seed(5)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(**inputs(family, rows=4, seq=48), use_cache=False).logits
    loss = torch.logsumexp(logits, -1).mean() - logits[..., 7].mean()
    loss.backward()
    return float(loss.detach()), [p.grad.clone() for p in model.parameters() if p.grad is not None], sum(kept.values())


@pytest.mark.parametrize("family", OBJECTIVES)
def test_nothing_changes_but_the_memory(family: str) -> None:
    plain, again = tiny(family), tiny(family)
    recompute(again)
    loss, gradients, kept = step(plain, family)
    loss_again, gradients_again, kept_again = step(again, family)
    assert loss_again == loss
    assert len(gradients) == len(gradients_again) > 5
    assert all(torch.equal(one, other) for one, other in zip(gradients, gradients_again, strict=True))
    assert kept_again < 0.8 * kept


def test_a_model_inside_another_is_found() -> None:
    model = WithPredecessor(tiny("bert"), seed=0)
    recompute(model)
    assert model.model.is_gradient_checkpointing


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(
        InputError,
        match=r"Linear has no layers that can be computed again: set resources\.activation_checkpointing=false",
    ):
        recompute(torch.nn.Linear(2, 2))
