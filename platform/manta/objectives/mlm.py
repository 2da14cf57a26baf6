"""Masked language modelling: the cross-entropy of hidden tokens given all others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manta.objectives import encoder
from manta.objectives.sums import NOT_SCORED, cross_entropy

if TYPE_CHECKING:
    import numpy as np
    import torch


def mlm(model: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over the scored positions t of -log p(label[t] | input) and their number (Devlin et al., arXiv:1810.04805).

    `batch["input_ids"]` is int (batch, seq), some of it replaced; `batch["labels"]` of the same shape, -100 where
    nothing is scored. `token_type_ids`, `attention_mask` and `position_ids` are used where given; where positions
    restart, documents do not see each other. `model` is a masked language model of Transformers. Both results are
    scalars: float32 nats, int64.
    """
    targets = batch["labels"].long()
    where = targets != NOT_SCORED
    with encoder.scored_only(model, where):
        logits = model(**encoder.inputs(model, batch)).logits  # (scored, vocab)
    return cross_entropy(logits, targets[where])


def labels_scored(batch: Mapping[str, np.ndarray]) -> int:
    """How many tokens of a batch (numpy, as the stream delivers it) are scored."""
    return int((batch["labels"] != NOT_SCORED).sum())
