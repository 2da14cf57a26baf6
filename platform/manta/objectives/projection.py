"""The layer that a student of another width is taught through. It imports torch: only `attach` loads it."""

from __future__ import annotations

from typing import Any

import torch


class WithProjection(torch.nn.Module):
    """A model, and one matrix that brings its states, where they are asked for, to the teacher's width.

    One for all depths, as in TinyBERT (arXiv:1909.10351, equation 7). Within the model's forward pass, so that an engine
    that shares weights out gathers it when it should.
    """

    def __init__(self, model: Any, width: int, seed: int):
        super().__init__()
        self.model = model
        hidden, like = model.config.hidden_size, next(model.parameters())
        # Made without drawing, then drawn from a generator of its own: nobody else's random numbers depend on it.
        self.projection = torch.nn.utils.skip_init(
            torch.nn.Linear, hidden, width, bias=False, dtype=like.dtype, device=like.device
        )
        drawn = torch.randn(width, hidden, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            self.projection.weight.copy_(drawn * hidden**-0.5)

    @property
    def config(self) -> Any:
        return self.model.config

    def get_output_embeddings(self) -> Any:
        return self.model.get_output_embeddings()

    def forward(self, **inputs: Any) -> Any:
        """What the model answers, `hidden_states`, if it has any, as (batch, seq, width of the teacher)."""
        found = self.model(**inputs)
        if found.get("hidden_states") is not None:
            found["hidden_states"] = tuple(self.projection(states) for states in found.hidden_states)
        return found
