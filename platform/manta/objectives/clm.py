"""Causal language modelling: the cross-entropy of each token given those before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

NOT_SCORED = -100


def clm(model: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over positions t of -log p(label[t+1] | input[..t]) and the number of positions scored.

    `batch["input_ids"]` is int (batch, seq); `batch["labels"]`, if given, the same shape with -100 where nothing is
    scored (else the inputs themselves are the labels). `batch["position_ids"]`, if given, restart at 0 where a document
    begins: its first token is not scored, and Transformers' models keep its attention within it. Both results are
    scalars: float32 nats, int64.
    """
    import torch

    input_ids = batch["input_ids"].long()  # (batch, seq)
    targets = batch.get("labels", input_ids)[:, 1:].long()  # (batch, seq - 1)
    more = {}
    if "position_ids" in batch:
        more["position_ids"] = batch["position_ids"].long()  # (batch, seq)
        targets = targets.masked_fill(more["position_ids"][:, 1:] == 0, NOT_SCORED)
    logits = model(input_ids=input_ids, use_cache=False, **more).logits[:, :-1]  # (batch, seq - 1, vocab)
    loss = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.size(-1)).float(), targets.reshape(-1), ignore_index=NOT_SCORED, reduction="sum"
    )
    return loss, (targets != NOT_SCORED).sum()


def clm_scored(batch: Mapping[str, np.ndarray]) -> int:
    """How many tokens of a batch (numpy, as the stream delivers it) are scored."""
    scored = batch.get("labels", batch["input_ids"])[:, 1:] != NOT_SCORED  # (rows, seq - 1)
    if "position_ids" in batch:
        scored &= batch["position_ids"][:, 1:] != 0
    return int(scored.sum())
