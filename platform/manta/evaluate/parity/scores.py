"""What a model believes of a probe's tokens, and how far two engines' beliefs lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np


class Believed(NamedTuple):
    """Log-probabilities in nats, (n,) float64, and the likeliest class of each decision, (m,) int64.

    Of language models n = m, one for each token that is predicted, `logs` that of the token that stands there. Of heads
    `logs` holds all classes of all m decisions.
    """

    logs: np.ndarray
    best: np.ndarray


class Distance(NamedTuple):
    """How far two engines are apart on a probe: the largest and the mean difference in nats, and the share of decisions
    on which both find the same class likeliest."""

    largest: float
    mean: float
    same_best: float

    def as_json(self) -> dict[str, float]:
        return {"max": self.largest, "mean": self.mean, "argmax": self.same_best}


def distance(one: Believed, other: Believed) -> Distance:
    """Compare beliefs of the same decisions. Infinite where one is not finite and the other is something else."""
    import numpy as np

    if one.logs.shape != other.logs.shape:
        raise ValueError(f"{one.logs.shape} log-probabilities against {other.logs.shape}")
    if not one.logs.size:
        return Distance(0.0, 0.0, 1.0)
    with np.errstate(invalid="ignore"):
        apart = np.where(one.logs == other.logs, 0.0, np.abs(one.logs - other.logs))
    apart = np.where(np.isnan(apart), np.inf, apart)
    return Distance(float(apart.max()), float(apart.mean()), float((one.best == other.best).mean()))


def of_tokens(logits: Any, targets: Sequence[int]) -> Believed:
    """Beliefs about `targets` (n,) from logits (n, vocab), a tensor of any precision."""
    import torch

    logs = torch.log_softmax(logits.double(), dim=-1)  # (n, vocab)
    wanted = torch.tensor(list(targets), device=logs.device)[:, None]  # (n, 1)
    return Believed(logs.gather(1, wanted)[:, 0].cpu().numpy(), logits.argmax(dim=-1).cpu().numpy())


def of_classes(logits: Any, several: bool = False) -> Believed:
    """Beliefs about all classes from logits (m, classes): one of them holds, or with `several` each by itself."""
    import torch

    wide = logits.double()
    logs = torch.nn.functional.logsigmoid(wide) if several else torch.log_softmax(wide, dim=-1)
    return Believed(logs.reshape(-1).cpu().numpy(), logits.argmax(dim=-1).reshape(-1).cpu().numpy())
