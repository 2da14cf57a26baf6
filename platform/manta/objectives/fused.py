"""Cross-entropy whose gradient is worked out with the loss: what a large vocabulary costs in memory and time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from manta.objectives.sums import NOT_SCORED

# Logits worked on at once: few enough that what is read again is still in the processor's cache, and that the copies in
# float32 of logits of lower precision are small; enough that the calls do not count.
AT_ONCE = {"cpu": 2**20, "cuda": 2**27}


def rows_at_once(logits: torch.Tensor) -> int:
    """Of logits (rows, classes), how many rows to work on before the next."""
    return max(1, AT_ONCE.get(logits.device.type, 2**27) // logits.size(1))


class CrossEntropy(torch.autograd.Function):
    """Sum over rows of -log softmax(logits)[target], scalar float32, of logits (rows, classes) and targets int64 (rows,).

    d loss / d logits = softmax(logits) - onehot(target), 0 in rows whose target is -100. PyTorch's own keeps the
    log-softmax for the backward pass and makes a sparse gradient of it first: two more tensors of the logits' size (three
    where they are of lower precision), each written and read. The idea of working out both in one go is that of
    arXiv:2410.10989. It cannot be differentiated twice.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        rows = rows_at_once(logits)
        sums = []
        for first in range(0, logits.size(0), rows):
            part, wanted = logits[first : first + rows], targets[first : first + rows]
            scored = wanted != NOT_SCORED
            index = wanted.clamp(min=0)[:, None]  # (rows, 1); what stands where nothing is scored does not matter
            log_p = torch.log_softmax(part, dim=-1, dtype=torch.float32)
            sums.append(-log_p.gather(1, index)[:, 0].masked_fill(~scored, 0.0).sum())
            if gradient is not None:
                mine = gradient[first : first + rows]
                mine.copy_(log_p.exp_().scatter_add_(1, index, torch.full_like(index, -1.0, dtype=torch.float32)))
                mine[~scored] = 0.0
        ctx.save_for_backward(gradient)
        return torch.stack(sums).sum() if sums else logits.new_zeros((), dtype=torch.float32)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *wanted: torch.Tensor) -> tuple[torch.Tensor | None, None]:
        (gradient,) = ctx.saved_tensors
        return (None if gradient is None else gradient.mul_(wanted[0])), None


class RowSums(torch.autograd.Function):
    """Sum over rows of what `loss` makes of them, scalar float32, some rows at a time and the gradient with it.

    `loss(logits, *beside)` takes rows of `logits` (rows, classes) and of the tensors `beside`, through which nothing is
    learnt, and returns the sum of their losses. What it keeps for its gradient is there for these rows alone: beside the
    logits there is one more tensor of their size. It cannot be differentiated twice.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, loss: Callable[..., torch.Tensor], *beside: torch.Tensor) -> Any:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if wanted else None
        rows = rows_at_once(logits)
        sums = []
        for first in range(0, logits.size(0), rows):
            part = logits[first : first + rows].detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                value = loss(part, *(tensor[first : first + rows] for tensor in beside))
            sums.append(value.detach())
            if gradient is not None:
                (gradient[first : first + rows],) = torch.autograd.grad(value, part)
        ctx.save_for_backward(gradient)
        ctx.num_inputs = 2 + len(beside)
        return torch.stack(sums).sum() if sums else logits.new_zeros((), dtype=torch.float32)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *wanted: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (None if gradient is None else gradient.mul_(wanted[0]), *[None] * (ctx.num_inputs - 1))
