"""LoRA on CPUs, one matrix product for each adapter of a batch. Imported by the engine's process alone.

vLLM's own gathers the adapter's whole matrices for each token before it multiplies: on SmolLM2-135M with rank 16 a token cost
about four times what it costs here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


class GroupedLora(PunicaWrapperCPU):
    """Rows without an adapter (-1) are left alone. vLLM sees every batch as prefill, on CPUs."""

    # Slot of an adapter, and the rows of the batch that ask for it: numbers, or a slice where it is all of them.
    groups: Sequence[tuple[int, Any]] = ()

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        super().update_metadata(*args, **kwargs)
        slots = self.token_lora_indices
        distinct = slots.unique().tolist()
        if len(distinct) == 1:
            self.groups = [(slot, slice(None)) for slot in distinct if slot >= 0]
        else:
            self.groups = [(slot, (slots == slot).nonzero().squeeze(1)) for slot in distinct if slot >= 0]

    def _shrink_prefill(self, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, scale: float) -> None:
        """y[rows] = scale * x[rows] A^T: y (rows, rank) fp32, x (rows, in), w_t_all (slots, 1, rank, in)."""
        for slot, rows in self.groups:
            made = _product(x[rows], w_t_all[slot], y.dtype)
            y[rows, : made.shape[1]] = scale * made

    def _expand_prefill(self, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, add_inputs: bool) -> None:
        """y[rows] (+)= x[rows] B^T: y (rows, out), x (rows, rank), w_t_all (slots, 1, out, rank)."""
        self._expand_slice_prefill(y, x, w_t_all, 0, min(y.shape[1], w_t_all.shape[-2]), add_inputs)

    def _expand_slice_prefill(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        w_t_all: torch.Tensor,
        y_offset: int,
        y_slice_size: int,
        add_inputs: bool,
    ) -> None:
        """The same, into the columns of y from y_offset on: several projections may lie side by side in one."""
        columns = slice(y_offset, y_offset + y_slice_size)
        for slot, rows in self.groups:
            made = _product(x[rows], w_t_all[slot], y.dtype)[:, :y_slice_size]
            y[rows, columns] = y[rows, columns] + made if add_inputs else made


def _product(x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    matrix = weight.squeeze(0) if weight.ndim == 3 else weight
    return x.to(dtype) @ matrix.to(dtype).T
