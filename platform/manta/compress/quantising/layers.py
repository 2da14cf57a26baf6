"""Quantises the linear layers of a model's blocks, one block after another: each is calibrated on what those before it, already
quantised, make of the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from manta.compress.quantising import blocks, scaling
from manta.compress.quantising.blocks import Chunk, Reading
from manta.compress.quantising.checkpoint import Checkpoint
from manta.compress.quantising.gptq import gptq
from manta.compress.quantising.grids import fit, nearest, refit, values
from manta.compress.quantising.memory import release, trim
from manta.compress.quantising.packing import Coded, coded
from manta.compress.quantising.schemes import Scheme, rounded_inputs

Report = Callable[[int, int], None]  # called with (blocks done, blocks)


class Way(NamedTuple):
    """How weights are rounded. `rounding`: a name of ROUNDING. `scales`: tried for what is moved before; none: nothing is."""

    rounding: str
    scales: tuple[scaling.Candidate, ...] = ()


def to_nearest(weight: torch.Tensor, reading: Reading, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    """Each weight to the nearest point of its grid. Returns codes (out, in) and scales (out, groups)."""
    scale = fit(weight, scheme.grid, reading.hessian.diagonal())
    return nearest(weight, scale, scheme.grid), scale


def by_gptq(weight: torch.Tensor, reading: Reading, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    """GPTQ, then scales fitted again to the codes that it chose, as `to_nearest` returns them."""
    scale = fit(weight, scheme.grid, reading.hessian.diagonal())
    codes = gptq(weight, reading.hessian, scale, scheme.grid)
    return codes, refit(weight, codes, reading.hessian, scale, scheme.grid)


ROUNDING = {"nearest": to_nearest, "gptq": by_gptq}


@torch.inference_mode()
def without_rows(model: Any, schemes: Mapping[str, Scheme], checkpoint: Checkpoint) -> None:
    """Round every layer of `schemes` to the nearest, looking at nothing but its weights, and write block after block."""
    prefix, found_blocks = blocks.blocks(model)
    for number, block in enumerate(found_blocks):
        found = {}
        for name, layer in blocks.linears(block).items():
            if (scheme := schemes.get(f"{prefix}.{number}.{name}")) is not None:
                weight = layer.weight.float()
                scale = fit(weight, scheme.grid)
                found[name] = coded(nearest(weight, scale, scheme.grid), scale, scheme)
        checkpoint.take(f"{prefix}.{number}", block, found)


@torch.inference_mode()
def with_rows(
    model: Any, chunks: list[Chunk], schemes: Mapping[str, Scheme], way: Way, checkpoint: Checkpoint, report: Report
) -> None:
    """Quantise the layers of `schemes`, full name -> scheme, in the given way, and write block after block.

    `chunks` are the rows as they enter the first block; they are used up. The same rows, threads and machine give the same codes.
    """
    prefix, found_blocks = blocks.blocks(model)
    head = getattr(model.config, "head_dim", None) or model.config.hidden_size // model.config.num_attention_heads
    dtype = blocks.fast_dtype()
    for number, block in enumerate(found_blocks):
        kept_as = next(block.parameters()).dtype
        _to_float(block)
        own = {
            name: schemes[full] for name in blocks.linears(block) if (full := f"{prefix}.{number}.{name}") in schemes
        }
        readings = blocks.observe(block, chunks, dtype)
        if way.scales:
            scaling.move(block, readings, own, way.scales, chunks[0], kept_as, head)
        found = _quantised(block, readings, own, way)
        del readings
        _advance(block, chunks, own, dtype)
        checkpoint.take(f"{prefix}.{number}", block, found)
        trim()
        report(number + 1, len(found_blocks))


def _quantised(
    block: torch.nn.Module, readings: Sequence[Reading], schemes: Mapping[str, Scheme], way: Way
) -> dict[str, Coded]:
    """Round a block's layers, those that read the same at once; their weights become what the codes stand for."""
    layers, found = blocks.linears(block), {}
    for reading in readings:
        names = [name for name in reading.names if name in schemes]
        if not names:
            continue
        scheme = schemes[names[0]]
        weight = torch.cat([layers[name].weight for name in names])
        trim()
        codes, scale = ROUNDING[way.rounding](weight, reading, scheme)
        meant = values(codes, scale)
        sizes = [len(layers[name].weight) for name in names]
        parts = zip(names, codes.split(sizes), scale.split(sizes), meant.split(sizes), strict=True)
        for name, own_codes, own_scale, own_meant in parts:
            found[name] = coded(own_codes, own_scale, scheme)
            layers[name].weight.copy_(own_meant)
    return found


def _advance(
    block: torch.nn.Module, chunks: Sequence[Chunk], schemes: Mapping[str, Scheme], dtype: torch.dtype
) -> None:
    """Put the rows through the quantised block, its layers' inputs rounded as they will be while the model runs."""

    def rounding(scheme: Scheme) -> Any:
        return lambda _, args: (rounded_inputs(args[0], scheme), *args[1:])

    layers = blocks.linears(block)
    hooks = [layers[name].register_forward_pre_hook(rounding(scheme)) for name, scheme in schemes.items()]
    try:
        blocks.advance(block, chunks, dtype)
    finally:
        for hook in hooks:
            hook.remove()


def _to_float(block: torch.nn.Module) -> None:
    """A block in float32; what it was before leaves memory."""
    for parameter in block.parameters():
        before = parameter.data
        parameter.data = before.float()
        if before.dtype is not torch.float32:
            release(before)
