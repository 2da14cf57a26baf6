"""Causal language modelling: the cross-entropy of each token given those before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manta.objectives.encoder import logits_at
from manta.objectives.sums import NOT_SCORED, cross_entropy

if TYPE_CHECKING:
    import numpy as np
    import torch


def clm(model: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over positions t of -log p(label[t+1] | input[..t]) and the number of positions scored.

    `batch["input_ids"]` is int (batch, seq); `batch["labels"]`, if given, the same shape with -100 where nothing is
    scored (else the inputs themselves are the labels). `batch["position_ids"]`, if given, restart at 0 where a document
    begins: its first token is not scored, and Transformers' models keep its attention within it. Both results are
    scalars: float32 nats, int64.
    """
    inputs, targets = shifted(batch)
    if "labels" not in batch:
        return cross_entropy(model(**inputs, use_cache=False).logits, targets)  # (batch, seq, vocab)
    where = targets != NOT_SCORED  # of conversations the answers alone: what is asked needs no output layer
    return cross_entropy(logits_at(model, where, **inputs, use_cache=False), targets[where])


def shifted(batch: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What the model reads, and what each of its positions is to predict: int64 (batch, seq), -100 where nothing is.

    The last position, which has nothing to predict, stays in: cutting it off the logits would copy all of them.
    """
    import torch

    inputs = {"input_ids": batch["input_ids"].long()}  # (batch, seq)
    targets = batch.get("labels", inputs["input_ids"])[:, 1:].long()
    if "position_ids" in batch:
        inputs["position_ids"] = batch["position_ids"].long()  # (batch, seq)
        targets = targets.masked_fill(inputs["position_ids"][:, 1:] == 0, NOT_SCORED)
    return inputs, torch.nn.functional.pad(targets, (0, 1), value=NOT_SCORED)


def clm_scored(batch: Mapping[str, np.ndarray]) -> int:
    """How many tokens of a batch (numpy, as the stream delivers it) are scored."""
    scored = batch.get("labels", batch["input_ids"])[:, 1:] != NOT_SCORED  # (rows, seq - 1)
    if "position_ids" in batch:
        scored &= batch["position_ids"][:, 1:] != 0
    return int(scored.sum())
