"""Cross-entropy in one go: PyTorch's own loss and gradient, in chunks that divide the rows or not, and its refusals."""

from __future__ import annotations

import pytest
import torch

from manta.objectives import fused
from manta.objectives.fused import CrossEntropy

ROWS, CLASSES = 13, 11


def problem(dtype: torch.dtype = torch.float32, scored: float = 0.7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = (3.0 * torch.randn(ROWS, CLASSES, generator=generator)).to(dtype).requires_grad_()
    targets = torch.randint(0, CLASSES, (ROWS,), generator=generator)
    left_out = torch.rand(ROWS, generator=generator) >= scored
    return logits, targets.masked_fill(left_out, -100)


def theirs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.float(), targets, ignore_index=-100, reduction="sum")


@pytest.mark.parametrize("at_once", [1, 3 * CLASSES, 1000])  # a row, three rows, all rows at a time
@pytest.mark.parametrize("scored", [0.0, 0.7, 1.0])
def test_loss_and_gradient_are_those_of_pytorch(monkeypatch: pytest.MonkeyPatch, at_once: int, scored: float) -> None:
    monkeypatch.setitem(fused.AT_ONCE, "cpu", at_once)
    logits, targets = problem(scored=scored)
    loss = CrossEntropy.apply(logits, targets)
    (mine,) = torch.autograd.grad(loss * 0.25, logits)
    expected = theirs(logits, targets)
    (wanted,) = torch.autograd.grad(expected * 0.25, logits)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-7)


def test_the_gradient_is_that_of_the_loss() -> None:
    logits, targets = problem()
    direction = torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(CrossEntropy.apply(logits, targets), logits)
    with torch.no_grad():
        ahead, behind = (theirs((logits + sign * 1e-2 * direction).double(), targets) for sign in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-2, rel=1e-3)


def test_lower_precision_keeps_its_gradient_small_and_right() -> None:
    logits, targets = problem(torch.bfloat16)
    loss = CrossEntropy.apply(logits, targets)
    (mine,) = torch.autograd.grad(loss, logits)
    (wanted,) = torch.autograd.grad(theirs(logits, targets), logits)
    assert loss.dtype == torch.float32
    assert mine.dtype == torch.bfloat16
    torch.testing.assert_close(mine, wanted, rtol=2**-7, atol=1e-6)


def test_an_impossible_target_costs_infinitely_much() -> None:
    logits = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]], requires_grad=True)
    loss = CrossEntropy.apply(logits, torch.tensor([1, 0]))
    assert float(loss) == torch.inf


def test_without_gradients_none_is_made() -> None:
    logits, targets = problem()
    with torch.no_grad():
        assert CrossEntropy.apply(logits, targets).grad_fn is None


def test_going_back_twice_is_refused() -> None:
    """The gradient is scaled where it lies: a second pass would scale it again."""
    logits, targets = problem()
    loss = CrossEntropy.apply(logits, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
