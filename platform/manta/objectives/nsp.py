"""BERT's joint objective: masked language modelling and next-sentence prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manta.objectives import encoder
from manta.objectives.mlm import labels_scored
from manta.objectives.sums import NOT_SCORED, cross_entropy

if TYPE_CHECKING:
    import numpy as np
    import torch


def nsp(model: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sums and two counts: of hidden tokens, and of rows (Devlin et al., arXiv:1810.04805, appendix A.2).

    L = 1/|M| sum_{t in M} -log p(x_t | row) + 1/rows sum_rows -log p(IsNext or not | row): BERT's mean over tokens plus
    mean over pairs. As sums and counts the two means are those of the whole global batch, however it is spread.

    The batch is that of `mlm`, with `next_sentence_label`, int (batch,): 0 where the second half of the row follows the
    first, 1 where not, -100 where the row is not scored. `model` has both heads (BertForPreTraining). Both results
    are (2,): float32 nats, int64.
    """
    import torch

    targets, next_is = batch["labels"].long(), batch["next_sentence_label"].long()
    where = targets != NOT_SCORED
    with encoder.scored_only(model, where):
        found = model(**encoder.inputs(model, batch))
    tokens, num_tokens = cross_entropy(found.prediction_logits, targets[where])
    pairs, num_pairs = cross_entropy(found.seq_relationship_logits, next_is)
    return torch.stack([tokens, pairs]), torch.stack([num_tokens, num_pairs])


def nsp_scored(batch: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """How many tokens and how many rows of a batch (numpy) are scored."""
    return labels_scored(batch), int((batch["next_sentence_label"] != NOT_SCORED).sum())
