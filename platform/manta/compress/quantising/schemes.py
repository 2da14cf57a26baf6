"""The schemes that a linear layer may have: the grid of its weights, what is done to its inputs, how a checkpoint says so."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from manta.compress.quantising.grids import Grid

GROUPS = (128, 64, 32)  # columns of a group that GPUs' kernels know; the largest that divides a layer's inputs


class Scheme(NamedTuple):
    """`activations`: the numbers that inputs are rounded to while the model runs, scaled per token; None: not at all.
    `format` and `suffix`: what compressed-tensors calls the checkpoint's layout and the tensor that holds the codes.
    """

    grid: Grid
    activations: str | None
    format: str
    suffix: str


def w8a8(inputs: int, group: int | None) -> Scheme:
    """int8 weights, one scale per output channel; int8 inputs, scaled per token as they come."""
    del inputs, group
    return Scheme(Grid(8), "int8", "int-quantized", "weight")


def w4a16(inputs: int, group: int | None) -> Scheme:
    """int4 weights in groups of input columns; inputs as they are. Raises ValueError if no group divides them."""
    fitting = [size for size in ((group,) if group else GROUPS) if inputs % size == 0]
    if not fitting:
        raise ValueError(f"{inputs} inputs cannot be cut into groups of {group or ' or '.join(map(str, GROUPS))}")
    return Scheme(Grid(4, fitting[0], scale_dtype="bfloat16"), None, "pack-quantized", "weight_packed")


def fp8(inputs: int, group: int | None) -> Scheme:
    """fp8 (e4m3) weights, one scale per output channel; fp8 inputs, scaled per token as they come."""
    del inputs, group
    return Scheme(Grid(8, kind="float"), "fp8", "float-quantized", "weight")


SCHEMES = {"w8a8": w8a8, "w4a16": w4a16, "fp8": fp8}


def config_group(scheme: Scheme, targets: list[str]) -> dict[str, Any]:
    """What config.json says of the layers `targets`, in compressed-tensors' words."""
    grid = scheme.grid
    weights: dict[str, Any] = {
        "num_bits": grid.bits,
        "type": grid.kind,
        "symmetric": True,
        "strategy": "channel" if grid.group is None else "group",
        "group_size": grid.group,
        "dynamic": False,
    }
    inputs = None
    if scheme.activations is not None:
        inputs = {"num_bits": 8, "type": grid.kind, "symmetric": True, "strategy": "token", "dynamic": True}
    return {
        "targets": targets,
        "weights": weights,
        "input_activations": inputs,
        "output_activations": None,
        "format": scheme.format,
    }


def rounded_inputs(inputs: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Inputs (..., in) as the layer will see them: each token (row) rounded with a scale of its own."""
    if scheme.activations is None:
        return inputs
    most = inputs.abs().amax(-1, keepdim=True).clamp(min=1e-10)
    if scheme.activations == "fp8":
        scale = most / 448.0
        return (inputs / scale).to(torch.float8_e4m3fn).to(inputs.dtype) * scale
    scale = most / 127.0
    return (inputs / scale).round_() * scale
