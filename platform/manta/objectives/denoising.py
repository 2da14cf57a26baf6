"""Denoising: the cross-entropy of the decoder's tokens given damaged text and the tokens before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from manta.objectives.sums import cross_entropy

if TYPE_CHECKING:
    import torch


def denoising(model: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum over positions t of -log p(label[t] | input, label[..t-1]) and the number of positions scored.

    `batch["input_ids"]` is int (batch, seq), what the encoder reads, `batch["attention_mask"]`, if given, 0 for its
    padding; `batch["labels"]` int (batch, target), -100 for padding. `model` is a model with an encoder and a decoder
    of Transformers, and makes itself what its decoder reads (T5: arXiv:1910.10683, BART: arXiv:1910.13461). Both results
    are scalars: float32 nats, int64.
    """
    targets = batch["labels"].long()
    inputs = {name: batch[name].long() for name in ("input_ids", "attention_mask") if name in batch}
    # Without labels the model computes no loss of its own beside this one.
    shown = model.prepare_decoder_input_ids_from_labels(labels=targets)
    logits = model(**inputs, decoder_input_ids=shown, use_cache=False).logits  # (batch, target, vocab)
    return cross_entropy(logits, targets)
