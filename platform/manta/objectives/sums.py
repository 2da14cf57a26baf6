"""What objectives share: cross-entropy as a sum, and the loss that sums and counts stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NOT_SCORED = -100


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of -log p(target) in nats and how many targets there are: scalars, float32 and int64.

    `logits` (..., classes) of any precision, `targets` int64 (...), -100 where nothing is scored. Beside the logits
    there is one more tensor of their size and precision, their gradient, which is worked out with the loss.
    """
    from manta.objectives.fused import CrossEntropy

    loss = CrossEntropy.apply(logits.reshape(-1, logits.size(-1)), targets.reshape(-1))
    return loss, (targets != NOT_SCORED).sum()


def mean(sums: torch.Tensor, counts: Any) -> torch.Tensor:
    """The loss of a batch: of each part the sum by its count (0 where nothing is scored), and the parts added up.

    `sums` and `counts` are scalars, or (parts,). With the sums of some rows and the counts of all rows of a global
    batch it is these rows' share of the loss: the shares add up to it, however the rows are spread.
    """
    import torch

    counts = torch.as_tensor(counts, device=sums.device)
    return (sums / counts.where(counts > 0, 1)).sum()
