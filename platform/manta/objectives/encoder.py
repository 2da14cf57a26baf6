"""What encoders read, and how only what is scored reaches the output layer of any model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def inputs(model: Any, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The arguments of an encoder of Transformers (or of a decoder with a head), from a batch of int columns (batch, seq).

    `input_ids`, and of `token_type_ids`, `attention_mask` and `position_ids` those that the batch has. Where positions
    restart, a document begins; Transformers tells decoders, but not encoders, so the mask is made here.
    """
    found = {
        name: batch[name].long()
        for name in ("input_ids", "token_type_ids", "attention_mask", "position_ids")
        if name in batch
    }
    if "position_ids" in found:
        dtype = next(model.parameters()).dtype
        found["attention_mask"] = block_mask(found["position_ids"], found.get("attention_mask"), dtype)
    return found


def block_mask(position_ids: torch.Tensor, attention_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """What is added to attention's scores, (batch, 1, seq, seq) of `dtype`: 0 within a document, else its lowest number.

    Documents begin where `position_ids` (batch, seq) are 0; nothing attends to places where `attention_mask` (batch,
    seq), if given, is 0. Eager attention and torch's take it; flash attention's own kernels take no such mask.
    """
    import torch

    document = (position_ids == 0).cumsum(dim=1)  # (batch, seq)
    seen = document[:, :, None] == document[:, None, :]  # (batch, seq, seq)
    if attention_mask is not None:
        seen &= attention_mask[:, None, :] != 0
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def logits_at(model: Any, where: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """What the model answers to `inputs` at `where`, bool (batch, seq), alone: logits (scored, vocab)."""
    with scored_only(model, where):
        logits: torch.Tensor = model(**inputs).logits
    return logits if logits.dim() == 2 else logits[where]


@contextlib.contextmanager
def scored_only(model: Any, where: torch.Tensor) -> Iterator[list[torch.Tensor]]:
    """Within the block, the model's output layer sees the hidden states at `where`, bool (batch, seq), alone.

    So its logits are (scored, vocab), in the order of rows and places. Of 15 per cent of the tokens that is a seventh
    of the work and memory of the vocabulary. Yields a list that then holds these hidden states, (scored, hidden). Where
    learnt tokens stand before the text (prompt tuning), so that places are others than in `where`, all states are seen.
    """
    states: list[torch.Tensor] = []

    def pick(_: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        if arguments[0].shape[:-1] != where.shape:
            return arguments
        states.append(arguments[0][where])
        return (states[-1], *arguments[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield states
    finally:
        handle.remove()
