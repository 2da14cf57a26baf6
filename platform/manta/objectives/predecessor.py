"""The layer that `multi_mlm` trains beside a model. It imports torch: only `attach` loads it."""

from __future__ import annotations

from typing import Any

import torch

from manta.objectives import encoder


class WithPredecessor(torch.nn.Module):
    """A masked language model, and a linear layer in front of its output layer for the token before.

    Both are used in one forward pass, so that an engine that shares weights out gathers them when it should.
    """

    def __init__(self, model: Any, seed: int):
        super().__init__()
        self.model = model
        hidden = model.get_output_embeddings().weight.shape[1]
        like = next(model.parameters())
        # Made without drawing, then drawn from a generator of its own: nobody else's random numbers depend on it.
        self.predecessor = torch.nn.utils.skip_init(
            torch.nn.Linear, hidden, hidden, bias=False, dtype=like.dtype, device=like.device
        )
        drawn = torch.randn(hidden, hidden, generator=torch.Generator().manual_seed(seed))
        deviation = getattr(model.config, "initializer_range", 0.02)
        with torch.no_grad():
            self.predecessor.weight.copy_(drawn * deviation)

    def forward(self, where: torch.Tensor, **inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (scored, vocab) of the tokens at `where`, bool (batch, seq), and of those before them."""
        with encoder.scored_only(self.model, where) as states:
            logits = self.model(**inputs).logits
        return logits, self.model.get_output_embeddings()(self.predecessor(states[0]))
