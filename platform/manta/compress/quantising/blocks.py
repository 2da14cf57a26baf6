"""A model block by block: what each linear layer reads, over calibration rows, and what a block makes of it.

Only one block is in float32 at a time; the stream between blocks is kept for all rows, everything else for a few rows at a
time, so memory beyond the model's does not grow with its depth, and work grows linearly with it. Rows run through blocks
in `ARITHMETIC`: bf16 where the processor multiplies it itself, several times faster than float32 and what will be served.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from manta import hardware
from manta.errors import InputError

SAMPLE = 512  # tokens whose inputs are kept whole, for what the Hessian does not tell: rounding of inputs
STRIPE = 512  # rows of a Hessian computed at a time; what lies below the diagonal is mirrored


@dataclass
class Chunk:
    """Some rows on their way through the blocks: hidden (rows, seq, width) float32, what else blocks are called with, and
    where there is text, (rows, seq) bool, or None where there is everywhere."""

    hidden: torch.Tensor
    others: dict[str, Any]
    real: torch.Tensor | None


@dataclass
class Reading:
    """What the layers `names` of a block read, all the same: of its inputs x, over all tokens of text, the mean of x x^T
    (in, in), of |x| and its maximum (in,); `sample` is some tokens' (tokens, in)."""

    names: list[str]
    hessian: torch.Tensor
    mean: torch.Tensor
    most: torch.Tensor
    sample: torch.Tensor
    tokens: int = 0


class _Stop(Exception):
    """Ends a forward pass that has gone far enough."""


def blocks(model: Any) -> tuple[str, torch.nn.ModuleList]:
    """The name and the list of the model's equal blocks. Raises InputError where there is none with linear layers."""
    wanted = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == wanted and linears(module[0]):
            return name, module
    raise InputError(
        f"model.source: a model of type {model.config.model_type} has no list of {wanted} blocks with linear layers: "
        "compress.quantise works on decoders such as llama, mistral or qwen2"
    )


def linears(block: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """The linear layers of a block by their name within it, in order."""
    return {name: module for name, module in block.named_modules() if type(module) is torch.nn.Linear}


def begin(model: Any, batches: Sequence[dict[str, torch.Tensor]]) -> list[Chunk]:
    """The rows as they enter the first block: `batches` hold input_ids and, where rows are padded, attention_mask."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ["one"])
    if len(kinds) > 1:
        raise InputError(
            f"model.source: blocks of several kinds ({', '.join(sorted(kinds))}) cannot be calibrated one after another: "
            "set compress.quantise.algorithm=rtn"
        )
    first, chunks = blocks(model)[1][0], []

    def keep(module: torch.nn.Module, args: tuple[Any, ...], others: dict[str, Any]) -> None:
        del module
        hidden = args[0] if args else others["hidden_states"]
        told = {key: _floating(value) for key, value in others.items() if key != "hidden_states"}
        chunks.append(Chunk(hidden.float(), told, None))
        raise _Stop

    hook = first.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        for batch in batches:
            try:
                model(**batch, use_cache=False)
            except _Stop:
                mask = batch.get("attention_mask")
                chunks[-1].real = None if mask is None else mask.bool()
    finally:
        hook.remove()
    return chunks


def _floating(value: Any) -> Any:
    """Tensors in float32, as the block that gets them; positions' sines and cosines come as pairs."""
    if isinstance(value, tuple):
        return tuple(_floating(part) for part in value)
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def fast_dtype() -> torch.dtype:
    """bfloat16 where this processor multiplies it itself, else float32."""
    return torch.bfloat16 if hardware.bf16_in_processor() else torch.float32


def forward(block: torch.nn.Module, chunk: Chunk, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What a block makes of a chunk, (rows, seq, width) float32: with its matrix products in `dtype`, all else in float32."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        made = block(chunk.hidden, **chunk.others)
    made = made[0] if isinstance(made, tuple) else made
    return made.float()


def observe(block: torch.nn.Module, chunks: Sequence[Chunk], dtype: torch.dtype) -> list[Reading]:
    """Run all chunks through a block and sum up what its linear layers read, once for those that read the same."""
    own = linears(block)
    groups = _sharing(block, chunks[0], own)
    readings = []
    for names in groups:
        width = own[names[0]].in_features
        zeros = torch.zeros(width)
        readings.append(Reading(names, torch.zeros(width, width), zeros, zeros.clone(), torch.empty(0, width)))
    real: list[torch.Tensor | None] = [None]
    last = own[readings[-1].names[0]]
    # Odd: rows have even lengths, and the same few places of each, such as the first, are not all that texts have.
    every = sum(chunk.hidden.shape[0] * chunk.hidden.shape[1] for chunk in chunks) // SAMPLE | 1

    def hook(reading: Reading) -> Any:
        def add(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            seen = args[0] if real[0] is None else args[0][real[0]]
            _add(reading, seen.reshape(-1, seen.shape[-1]).float(), every)
            if module is last:  # what comes after it is of no interest
                raise _Stop

        return add

    hooks = [own[reading.names[0]].register_forward_pre_hook(hook(reading)) for reading in readings]
    try:
        for chunk in chunks:
            real[0] = chunk.real
            try:
                forward(block, chunk, dtype)
            except _Stop:
                continue
    finally:
        for each in hooks:
            each.remove()
    for reading in readings:
        lower = reading.hessian.triu(1).t()
        reading.hessian = (reading.hessian.triu() + lower).div_(reading.tokens)
        reading.mean /= reading.tokens
    return readings


def _add(reading: Reading, seen: torch.Tensor, every: int) -> None:
    """Add tokens (tokens, in) to the sums; every so many is kept."""
    for top in range(0, seen.shape[1], STRIPE):
        reading.hessian[top : top + STRIPE, top:].addmm_(seen[:, top : top + STRIPE].t(), seen[:, top:])
    size = seen.abs()
    reading.mean += size.sum(0)
    reading.most = torch.maximum(reading.most, size.amax(0))
    start = -reading.tokens % every
    reading.sample = torch.cat([reading.sample, seen[start::every]])
    reading.tokens += len(seen)


def _sharing(block: torch.nn.Module, chunk: Chunk, own: dict[str, torch.nn.Linear]) -> list[list[str]]:
    """The layers' names, together where they read the same tensor, in the order in which they are called."""
    groups: list[list[str]] = []
    seen: list[torch.Tensor] = []  # held, so that none of them can be another at the same place in memory

    def note(name: str) -> Any:
        def add(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            del module
            for group, tensor in zip(groups, seen, strict=True):
                if tensor is args[0]:
                    group.append(name)
                    return
            groups.append([name])
            seen.append(args[0])

        return add

    hooks = [module.register_forward_pre_hook(note(name)) for name, module in own.items()]
    try:
        forward(block, Chunk(chunk.hidden[:1], first_row(chunk.others, len(chunk.hidden)), None))
    finally:
        for each in hooks:
            each.remove()
    return groups


def first_row(value: Any, rows: int) -> Any:
    """Of what a block is called with, what concerns the first row."""
    if isinstance(value, dict):
        return {key: first_row(part, rows) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(first_row(part, rows) for part in value)
    return value[:1] if isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == rows else value


def advance(block: torch.nn.Module, chunks: Sequence[Chunk], dtype: torch.dtype) -> None:
    """Put all chunks through a block: they become what the next one reads."""
    for chunk in chunks:
        chunk.hidden = forward(block, chunk, dtype)


def names(model: Any) -> Iterator[tuple[str, torch.nn.Linear]]:
    """Every linear layer of the blocks with its full name."""
    prefix, found = blocks(model)
    for number, block in enumerate(found):
        for name, module in linears(block).items():
            yield f"{prefix}.{number}.{name}", module
