"""Scales moved between a layer's inputs and its weights before rounding, exact in real numbers: AWQ and SmoothQuant.

A layer's input channel may be divided by s and its weight column multiplied by it. The division costs nothing where
something before the layer can carry it: the weight of a norm, or the rows of a linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from manta.compress.quantising.blocks import Chunk, Reading, first_row, forward, linears
from manta.compress.quantising.grids import fit, nearest, values
from manta.compress.quantising.schemes import Scheme, rounded_inputs
from manta.errors import InputError

# A layer whose inputs are another's outputs, times numbers that do not matter: by the ends of their names.
CARRIERS = {"down_proj": "up_proj", "o_proj": "v_proj"}


def awq(reading: Reading, weight: torch.Tensor, strength: float) -> torch.Tensor:
    """Activation-aware scales (Lin et al., arXiv:2306.00978): channels with large inputs get finer steps. (in,)"""
    del weight
    return _centred(reading.mean.clamp(min=1e-4) ** strength)


def smoothquant(reading: Reading, weight: torch.Tensor, strength: float) -> torch.Tensor:
    """SmoothQuant's scales (Xiao et al., arXiv:2211.10438): outliers move from the inputs into the weight. (in,)"""
    most, largest = reading.most.clamp(min=1e-5), weight.abs().amax(0).clamp(min=1e-5)
    return most**strength / largest ** (1 - strength) if strength else torch.ones_like(most)


def by_mean(reading: Reading, weight: torch.Tensor, strength: float) -> torch.Tensor:
    """As `smoothquant`, by the inputs' mean magnitude: where each token is scaled by itself, one token's outlier is its own
    affair, and only channels that are large in most tokens cost the others their steps. (in,)"""
    mean, largest = reading.mean.clamp(min=1e-5), weight.abs().amax(0).clamp(min=1e-5)
    return mean**strength / largest ** (1 - strength)


def _centred(scale: torch.Tensor) -> torch.Tensor:
    return scale / (scale.max() * scale.min()).sqrt()


Candidate = tuple[Callable[[Reading, torch.Tensor, float], torch.Tensor], float]  # what makes scales, its strength


SEARCHED_AWQ = tuple((awq, number / 10) for number in range(11))
SEARCHED_SMOOTHQUANT = (
    (smoothquant, 0.0),  # which moves nothing
    *((made, number / 10) for made in (smoothquant, by_mean) for number in range(3, 10)),
)


def search(reading: Reading, weight: torch.Tensor, scheme: Scheme, tried: Sequence[Candidate]) -> torch.Tensor:
    """Of these scales those with which rounding changes the layer's outputs least: (in,).

    Judged by the squared error of a token's outputs over their square, on the reading's sample, weights rounded to the
    nearest and inputs as the scheme rounds them.
    """
    if len(tried) == 1:
        return tried[0][0](reading, weight, tried[0][1])
    exact = reading.sample @ weight.t()  # (tokens, out)
    size = exact.square().sum(-1).clamp(min=1e-12)
    best, least = torch.ones(weight.shape[1]), torch.inf
    for made, strength in tried:
        scale = made(reading, weight, strength)
        scaled, seen = weight * scale, reading.sample / scale
        steps = fit(scaled, scheme.grid, seen.square().mean(0))
        coded = values(nearest(scaled, steps, scheme.grid), steps)
        error = (rounded_inputs(seen, scheme) @ coded.t() - exact).square().sum(-1)
        lost = float((error / size).sum())
        if lost < least:
            best, least = scale, lost
    return best


def move(
    block: torch.nn.Module,
    readings: Sequence[Reading],
    schemes: dict[str, Scheme],
    tried: Sequence[Candidate],
    chunk: Chunk,
    dtype: torch.dtype,
    head: int,
) -> None:
    """Scale what can be scaled in a block (float32), and the readings with it.

    What carries a scale is rounded to `dtype`, which the checkpoint keeps it in, before the weights make up for it. `head` is
    the width of an attention head.
    """
    own = linears(block)
    row = Chunk(chunk.hidden[:1], first_row(chunk.others, len(chunk.hidden)), None)
    before = forward(block, row)
    norms = _norms(block, row)
    for reading in readings:
        carrier = norms.get(reading.names[0]) or _carrier(own, reading.names)
        scheme = schemes.get(reading.names[0])
        if carrier is None or scheme is None:
            continue
        weight = torch.cat([own[name].weight for name in reading.names])
        scale = _shared(search(reading, weight, scheme, tried), carrier, head)
        scale = _carry(carrier, scale, dtype, head)
        for name in reading.names:
            own[name].weight.mul_(scale)
        reading.hessian /= scale[:, None] * scale[None, :]
        reading.mean, reading.most, reading.sample = (
            part / scale for part in (reading.mean, reading.most, reading.sample)
        )
    after = forward(block, row)
    if not torch.allclose(before, after, rtol=1e-2, atol=1e-3 * float(before.abs().max())):
        raise InputError(
            "compress.quantise: scales cannot be moved in blocks of this kind, whose norms are not plain factors: set "
            "compress.quantise.smoothquant=null and an algorithm other than awq"
        )


def _norms(block: torch.nn.Module, row: Chunk) -> dict[str, Any]:
    """Linear layer -> the norm whose output it reads as it is."""
    found: dict[str, Any] = {}
    made: list[tuple[torch.Tensor, torch.nn.Module]] = []

    def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
        del args
        made.append((output, module))

    def match(name: str) -> Any:
        def look(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            del module
            for output, norm in made:
                if output is args[0]:
                    found[name] = norm

        return look

    scaled = [module for module in block.modules() if getattr(getattr(module, "weight", None), "ndim", 0) == 1]
    hooks = [module.register_forward_hook(keep) for module in scaled]
    hooks += [module.register_forward_pre_hook(match(name)) for name, module in linears(block).items()]
    try:
        forward(block, row)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _carrier(own: dict[str, torch.nn.Linear], names: Sequence[str]) -> torch.nn.Linear | None:
    """The linear layer whose rows can carry the scale of these layers' inputs."""
    parent, _, last = names[0].rpartition(".")
    other = own.get(f"{parent}.{CARRIERS[last]}") if last in CARRIERS and len(names) == 1 else None
    return other if other is not None and own[names[0]].in_features % other.out_features == 0 else None


def _shared(scale: torch.Tensor, carrier: Any, head: int) -> torch.Tensor:
    """Several heads may read one row of the carrier (grouped-query attention): these get one scale, the geometric mean."""
    rows = len(carrier.weight)
    repeats = len(scale) // rows
    if repeats == 1:
        return scale
    parts = scale.reshape(rows // head, repeats, head).log().mean(1, keepdim=True).exp()
    return parts.expand(-1, repeats, -1).reshape(-1)


def _carry(carrier: Any, scale: torch.Tensor, dtype: torch.dtype, head: int) -> torch.Tensor:
    """Divide the carrier's outputs by the scale; returns what they were divided by in fact, after rounding. (in,)"""
    if isinstance(carrier, torch.nn.Linear):  # quantised itself: nothing is rounded yet
        rows = len(carrier.weight)
        each = scale if rows == len(scale) else scale.reshape(rows // head, -1, head)[:, 0].reshape(-1)
        carrier.weight.div_(each[:, None])
        if carrier.bias is not None:
            carrier.bias.div_(each)
        return scale
    before = carrier.weight.clone()
    carrier.weight.copy_((before / scale).to(dtype))
    actual = torch.where(carrier.weight == 0, scale, before / carrier.weight)
    if getattr(carrier, "bias", None) is not None:
        carrier.bias.div_(actual)
    return actual
