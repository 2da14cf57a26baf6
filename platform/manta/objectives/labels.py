"""Objectives of heads: the label of a text, the tag of each word, the two ends of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from manta.objectives import encoder
from manta.objectives.sums import NOT_SCORED, cross_entropy

if TYPE_CHECKING:
    import numpy as np
    import torch

Logits = list[Any]  # to which a loss adds what the head gave for its batch, on the CPU, float32


def sequence_labels(
    model: Any,
    batch: Mapping[str, torch.Tensor],
    several: bool = False,
    weights: Sequence[float] | None = None,
    keep: Logits | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One label a text: sum of -w[y] log p(y | text) and sum of w[y], so that their quotient is the weighted mean.

    That is what torch's cross_entropy with weights is on one batch; as sums it is the same on the whole global batch.
    Without `weights` all are 1 and the second sum is the number of rows. `batch["labels"]` is int (batch,), -100 where
    a row is not scored. Scalars: float32 nats, and int64 or (with weights) float32.

    With `several`, labels are 0, 1 or -100, int (batch, labels), and each is judged by itself: the sum of
    -[y log s(z) + (1 - y) log(1 - s(z))] over all of them, s the logistic function of its logit z, and their number.

    `input_ids`, `attention_mask` and `token_type_ids` are (batch, seq). `model` is one of Transformers' for sequence
    classification; decoders among them read the last token that is no padding.
    """
    logits = _kept(model(**encoder.inputs(model, batch)).logits, keep)  # (batch, labels)
    if several:
        return _binary(logits, batch["labels"])
    targets = batch["labels"].long()
    if weights is None:
        return cross_entropy(logits, targets)
    return _weighted(logits, targets, weights)


def token_labels(
    model: Any, batch: Mapping[str, torch.Tensor], keep: Logits | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over scored tokens of -log p(tag | text) and their number: scalars, float32 nats and int64.

    `batch["labels"]` is int (batch, seq), -100 on all but the first piece of each word. `model` is one of
    Transformers' for token classification.
    """
    logits = _kept(model(**encoder.inputs(model, batch)).logits, keep)  # (batch, seq, labels)
    return cross_entropy(logits, batch["labels"].long())


def spans(
    model: Any, batch: Mapping[str, torch.Tensor], keep: Logits | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over scored rows of -(log p(start) + log p(end)) / 2, the mean of both ends, and the number of these rows.

    The distributions are over the places of the row (Devlin et al., arXiv:1810.04805, section 4.2).
    `batch["start_positions"]` and `batch["end_positions"]` are int (batch,), of the first and the last token of the
    answer, -100 where a row is not scored (in both alike). `model` is one of Transformers' for question answering.
    Scalars: float32 nats, int64.
    """
    import torch

    found = model(**encoder.inputs(model, batch))
    _kept(torch.stack([found.start_logits, found.end_logits], dim=1), keep)  # (batch, 2, seq)
    first, rows = cross_entropy(found.start_logits, batch["start_positions"].long())
    last, _ = cross_entropy(found.end_logits, batch["end_positions"].long())
    return (first + last) / 2, rows


# --- counts ----------------------------------------------------------------------------------------------------------


def sequence_scored(batch: Mapping[str, np.ndarray], weights: Sequence[float] | None = None) -> float:
    """What `sequence_labels` returns as its count for a batch (numpy)."""
    labels = batch["labels"]
    scored = labels[labels != NOT_SCORED]
    return int(scored.size) if weights is None else float(sum(weights[label] for label in scored))


def spans_scored(batch: Mapping[str, np.ndarray]) -> int:
    """How many rows of a batch (numpy) are scored."""
    return int((batch["start_positions"] != NOT_SCORED).sum())


# --- parts -----------------------------------------------------------------------------------------------------------


def _kept(logits: torch.Tensor, keep: Logits | None) -> torch.Tensor:
    if keep is not None:
        keep.append(logits.detach().float().cpu())
    return logits


def _binary(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    scored = labels != NOT_SCORED
    targets = labels.clamp(min=0).float()
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), targets, reduction="none")
    return each.masked_fill(~scored, 0.0).sum(), scored.sum()


def _weighted(
    logits: torch.Tensor, targets: torch.Tensor, weights: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    each = torch.tensor(weights, device=logits.device)
    total = torch.nn.functional.cross_entropy(
        logits.float(), targets, weight=each, ignore_index=NOT_SCORED, reduction="sum"
    )
    return total, each[targets[targets != NOT_SCORED]].sum()
