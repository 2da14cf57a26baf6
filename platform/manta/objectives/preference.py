"""Direct preference optimisation: the chosen answer is to gain more likelihood than the rejected one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manta.objectives.encoder import logits_at
from manta.objectives.labels import Logits
from manta.objectives.sums import NOT_SCORED

if TYPE_CHECKING:
    import numpy as np
    import torch


def preference(
    model: Any,
    batch: Mapping[str, torch.Tensor],
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    keep: Logits | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over pairs of -(1 - e) log s(m) - e log s(-m) and the number of pairs: scalars, float32 nats and int64.

    s is the logistic function, m = beta ((log p - log p_ref)(chosen) - (log p - log p_ref)(rejected)) and e =
    `label_smoothing`: DPO (Rafailov et al. 2023, arXiv:2305.18290, equation 7), with e > 0 for labels of which that share
    is wrong (cDPO). With e = 0 and a model that is its own reference each pair costs ln 2.

    The batch is that of `answers`, with `reference`, int32 (batch, 2), whose bits are the float32 log p_ref of the chosen
    and the rejected answer; without it the reference finds all answers equally likely. Pairs whose chosen `labels` are all -100 are not scored. To `keep` is added float32
    (batch, 4): log p of the chosen, of the rejected, and the same of the reference.
    """
    import torch

    policy = answers(model, batch)  # (batch, 2)
    reference = batch["reference"].view(torch.float32) if "reference" in batch else torch.zeros_like(policy)
    if keep is not None:
        keep.append(torch.cat([policy, reference], dim=1).detach().cpu())
    gained = policy - reference
    margin = beta * (gained[:, 0] - gained[:, 1])
    right, wrong = torch.nn.functional.logsigmoid(margin), torch.nn.functional.logsigmoid(-margin)
    each = -(1.0 - label_smoothing) * right - label_smoothing * wrong
    scored = (batch["labels"] != NOT_SCORED).any(dim=1)
    return each.masked_fill(~scored, 0.0).sum(), scored.sum()


def answers(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Of each pair the log-probabilities of both answers, float32 (batch, 2) in nats: sums over the tokens with a label.

    `input_ids` and `labels` hold the question with the chosen answer, `rejected_input_ids` and `rejected_labels` that
    with the other, int (batch, seq); labels are not shifted, -100 where nothing is scored. Both go through the model
    together. `model` is one of Transformers' for causal language modelling.
    """
    import torch

    inputs = torch.cat([batch["input_ids"], batch["rejected_input_ids"]]).long()  # (2 batch, seq)
    labels = torch.cat([batch["labels"], batch["rejected_labels"]]).long()
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=NOT_SCORED)
    where = targets != NOT_SCORED
    # Of a pair most is the question, which is not scored.
    logits = logits_at(model, where, input_ids=inputs, use_cache=False).float()  # (scored, vocab)
    each = -torch.nn.functional.cross_entropy(logits, targets[where], reduction="none")
    sums = torch.zeros(where.shape, dtype=torch.float32, device=each.device).masked_scatter(where, each).sum(dim=1)
    return torch.stack(sums.chunk(2), dim=1)


def preference_scored(batch: Mapping[str, np.ndarray]) -> int:
    """How many pairs of a batch (numpy) are scored."""
    return int((batch["labels"] != NOT_SCORED).any(axis=1).sum())
