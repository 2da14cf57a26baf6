"""Mixed precision: what each layer's rounding would cost the model, and the choice that costs least within a size.

The cost of a layer's scheme is the divergence that it adds between the model's predictions with and without it, to second
order: half the square of the change of its outputs along the gradient of the log-likelihood of a token that the model
itself draws (the Fisher information, as in arXiv:2306.07629). One pass forward and back per row measures all layers.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from manta.compress.quantising import blocks
from manta.compress.quantising.grids import fit, nearest, values
from manta.compress.quantising.schemes import SCHEMES, Scheme, rounded_inputs
from manta.errors import InputError
from manta.sections.quantise import Mixed

KEPT = "kept"
# Layers that engines compute as one.
JOINED = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}


class Choice(NamedTuple):
    """What a unit of layers may become: bytes in the checkpoint and what it costs, in nats per token."""

    scheme: str
    bytes: float
    cost: float


def choose(
    model: Any, batches: Sequence[dict[str, torch.Tensor]], settings: Mixed, group: int | None
) -> dict[str, Scheme]:
    """Full name -> scheme, of the layers that do not stay as they are.

    Layers that read the same are one unit, since engines join them. Raises InputError where even the smallest choice of
    each exceeds the size.
    """
    units = _units(model)
    layers = dict(blocks.names(model))
    few = _few(batches, settings.samples)
    costs = measure(model, few, settings.schemes, group)
    total = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    choices = []
    for unit in units:
        stored = sum(layers[name].weight.numel() * layers[name].weight.element_size() for name in unit)
        options = [Choice(KEPT, stored, 0.0)]
        for scheme in settings.schemes:
            made = [(layers[name], SCHEMES[scheme](layers[name].in_features, group)) for name in unit]
            size = sum(each.grid.bytes_of(layer.out_features, layer.in_features) for layer, each in made)
            options.append(Choice(scheme, size, sum(costs[name][scheme] for name in unit)))
        choices.append(options)
    rest = total - sum(options[0].bytes for options in choices)
    picked = allocate(choices, settings.size_ratio * total - rest)
    if picked is None:
        least = (rest + sum(min(option.bytes for option in options) for options in choices)) / total
        raise InputError(
            f"compress.quantise.mixed.size_ratio = {settings.size_ratio:g}: with {' and '.join(settings.schemes)} the model "
            f"cannot be smaller than {least:.3f}: set compress.quantise.mixed.size_ratio={least + 0.005:.2f} or more"
        )
    return {
        name: SCHEMES[option.scheme](layers[name].in_features, group)
        for unit, option in zip(units, picked, strict=True)
        for name in unit
        if option.scheme != KEPT
    }


def allocate(choices: Sequence[Sequence[Choice]], budget: float) -> list[Choice] | None:
    """One choice of each unit with the least total cost within `budget` bytes, by greedy steps; None if nothing fits.

    From the smallest choices, the step that saves most cost per byte comes first; steps to choices that are no better than
    smaller ones are never taken. Optimal but for the last step that no longer fits.
    """
    paths = [_hull(options) for options in choices]
    at = [0] * len(paths)
    left = budget - sum(path[0].bytes for path in paths)
    if left < 0:
        return None

    def step(unit: int) -> tuple[float, int]:
        here, there = paths[unit][at[unit]], paths[unit][at[unit] + 1]
        return -(here.cost - there.cost) / (there.bytes - here.bytes), unit

    waiting = [step(unit) for unit, path in enumerate(paths) if len(path) > 1]
    heapq.heapify(waiting)
    while waiting:
        _, unit = heapq.heappop(waiting)
        more = paths[unit][at[unit] + 1].bytes - paths[unit][at[unit]].bytes
        if more > left:
            continue
        left -= more
        at[unit] += 1
        if at[unit] + 1 < len(paths[unit]):
            heapq.heappush(waiting, step(unit))
    return [path[place] for path, place in zip(paths, at, strict=True)]


def _hull(options: Sequence[Choice]) -> list[Choice]:
    """The lower convex hull of cost over bytes, from the smallest choice on."""
    path: list[Choice] = []
    for option in sorted(options, key=lambda each: (each.bytes, each.cost)):
        if path and option.cost >= path[-1].cost:
            continue
        while len(path) > 1 and _slope(path[-2], path[-1]) >= _slope(path[-2], option):
            path.pop()
        path.append(option)
    return path


def _slope(one: Choice, other: Choice) -> float:
    return (other.cost - one.cost) / (other.bytes - one.bytes)


def measure(
    model: Any, batches: Sequence[dict[str, torch.Tensor]], schemes: Sequence[str], group: int | None
) -> dict[str, dict[str, float]]:
    """Full name of a layer -> scheme -> cost in nats per token, over the given rows."""
    costs: dict[str, dict[str, float]] = {name: dict.fromkeys(schemes, 0.0) for name, _ in blocks.names(model)}
    tokens = 0
    drawn = torch.Generator().manual_seed(0)
    hooks = []

    def watch(name: str) -> Any:
        def keep(module: torch.nn.Linear, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            inputs = args[0].detach()
            output.register_hook(lambda gradient: _add(costs[name], module, inputs, gradient, group))

        return keep

    for name, layer in blocks.names(model):
        hooks.append(layer.register_forward_hook(watch(name)))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.get_input_embeddings().weight.requires_grad_(True)  # a gradient reaches all layers behind it
    try:
        for batch in batches:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=blocks.fast_dtype() is torch.bfloat16):
                logits = model(**batch, use_cache=False).logits.float()  # (rows, seq, vocab)
            mask = batch.get("attention_mask")
            flat = logits.flatten(0, 1) if mask is None else logits[mask.bool()]
            targets = torch.multinomial(flat.detach().softmax(-1), 1, generator=drawn)[:, 0]
            torch.nn.functional.cross_entropy(flat, targets, reduction="sum").backward()
            model.get_input_embeddings().weight.grad = None
            tokens += len(flat)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: {scheme: cost / tokens for scheme, cost in found.items()} for name, found in costs.items()}


def _add(
    costs: dict[str, float], layer: torch.nn.Linear, inputs: torch.Tensor, gradient: torch.Tensor, group: int | None
) -> None:
    """Add, for each scheme, half the squared change of the layer's outputs along `gradient`, summed over tokens."""
    seen, along = inputs.flatten(0, -2).float(), gradient.flatten(0, -2).float()
    weight = layer.weight.float()
    for name in costs:
        scheme = SCHEMES[name](layer.in_features, group)
        scale = fit(weight, scheme.grid, seen.square().mean(0))
        coded = values(nearest(weight, scale, scheme.grid), scale)
        change = rounded_inputs(seen, scheme) @ coded.t() - seen @ weight.t()
        costs[name] += 0.5 * float((change * along).sum(-1).square().sum())


def counted(model: Any, schemes: Mapping[str, Scheme]) -> dict[str, int]:
    """How many layers have which format; those that stay as they are count as kept."""
    found = Counter(f"int{schemes[name].grid.bits}" if name in schemes else KEPT for name, _ in blocks.names(model))
    return dict(sorted(found.items()))


def _units(model: Any) -> list[list[str]]:
    """The names of the layers of all blocks, together where engines compute them as one."""
    units: dict[str, list[str]] = {}
    for name, _ in blocks.names(model):
        parent, _, last = name.rpartition(".")
        units.setdefault(f"{parent}.{JOINED.get(last, last)}", []).append(name)
    return list(units.values())


def _few(batches: Sequence[dict[str, torch.Tensor]], wanted: int) -> list[dict[str, torch.Tensor]]:
    """The first `wanted` rows, one in a batch: logits of a large vocabulary are the largest tensors there are."""
    rows = [
        {name: part[place : place + 1] for name, part in b.items()}
        for b in batches
        for place in range(len(b["input_ids"]))
    ]
    return rows[:wanted]
