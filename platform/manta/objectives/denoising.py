"""Denoising: the cross-entropy of the decoder's tokens given damaged text and the tokens before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manta.objectives.encoder import logits_at
from manta.objectives.sums import NOT_SCORED, cross_entropy

if TYPE_CHECKING:
    import torch

MULTIPLE = 8  # vector units like such lengths, and compiled models see few of them


def denoising(model: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over positions t of -log p(label[t] | input, label[..t-1]) and the number of positions scored.

    `batch["input_ids"]` is int (batch, seq), what the encoder reads, `batch["attention_mask"]`, if given, 0 for its
    padding; `batch["labels"]` int (batch, target), -100 for padding. `model` is a model with an encoder and a decoder
    of Transformers, and makes itself what its decoder reads (T5: arXiv:1910.10683, BART: arXiv:1910.13461). Both results
    are scalars: float32 nats, int64.
    """
    targets = _without_filling(batch["labels"].long())
    inputs = {name: batch[name].long() for name in ("input_ids", "attention_mask") if name in batch}
    # Without labels the model computes no loss of its own beside this one.
    shown = model.prepare_decoder_input_ids_from_labels(labels=targets)
    where = targets != NOT_SCORED  # (batch, target)
    logits = logits_at(model, where, **inputs, decoder_input_ids=shown, use_cache=False)  # (scored, vocab)
    return cross_entropy(logits, targets[where])


def _without_filling(targets: torch.Tensor) -> torch.Tensor:
    """The labels as long as the longest answer of these rows, which are filled up to the longest of all. The decoder sees
    no later place from an earlier one, so that nothing else changes."""
    import torch

    lengths = torch.arange(1, targets.size(1) + 1, device=targets.device) * (targets != NOT_SCORED)
    longest = int(lengths.max())
    return targets[:, : min(targets.size(1), max(1, -(-longest // MULTIPLE)) * MULTIPLE)]
