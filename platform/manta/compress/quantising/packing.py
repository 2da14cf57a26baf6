"""Compressed-tensors checkpoints: how codes and scales lie in a file, and what config.json says of them.

vLLM and Transformers read them with the library of that name; nothing but safetensors is needed to write them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from manta.compress.quantising.schemes import Scheme, config_group
from manta.compress.quantising.writing import Form

PER_WORD = 8  # int4 codes in an int32


class Coded(NamedTuple):
    """A linear layer's weight, quantised: `tensors` by the end of their name, as they are stored."""

    scheme: Scheme
    tensors: dict[str, torch.Tensor]


def coded(codes: torch.Tensor, scale: torch.Tensor, scheme: Scheme) -> Coded:
    """Codes (out, in) and scales (out, groups), both float32, as the checkpoint stores them."""
    # A copy: layers that were rounded together have parts of one tensor, which no file takes.
    kept = scale.to(getattr(torch, scheme.grid.scale_dtype), copy=True, memory_format=torch.contiguous_format)
    if scheme.grid.bits == 4:
        shape = torch.tensor(codes.shape, dtype=torch.int64)
        return Coded(scheme, {"weight_packed": pack(codes), "weight_scale": kept, "weight_shape": shape})
    stored = codes.to(torch.float8_e4m3fn if scheme.grid.kind == "float" else torch.int8)
    return Coded(scheme, {"weight": stored.contiguous(), "weight_scale": kept})


def forms(scheme: Scheme, out: int, columns: int) -> dict[str, Form]:
    """What `coded` makes of a weight (out, columns), by the end of its name."""
    scale = Form(getattr(torch, scheme.grid.scale_dtype), (out, scheme.grid.groups(columns)))
    if scheme.grid.bits == 4:
        words = Form(torch.int32, (out, columns // PER_WORD))
        return {"weight_packed": words, "weight_scale": scale, "weight_shape": Form(torch.int64, (2,))}
    stored = torch.float8_e4m3fn if scheme.grid.kind == "float" else torch.int8
    return {"weight": Form(stored, (out, columns)), "weight_scale": scale}


def pack(codes: torch.Tensor) -> torch.Tensor:
    """int4 codes (out, in) from -8 to 7 -> (out, in / 8) int32: eight in a word, the first one lowest, each plus 8."""
    parts = (codes + 8).to(torch.int64).reshape(len(codes), -1, PER_WORD)
    words = (parts << (4 * torch.arange(PER_WORD))).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack(words: torch.Tensor) -> torch.Tensor:
    """The inverse of `pack`: (out, words) int32 -> (out, 8 words) int8."""
    parts = (words.to(torch.int64)[..., None] >> (4 * torch.arange(PER_WORD))) & 15
    return (parts - 8).to(torch.int8).reshape(len(words), -1)


def quantization_config(schemes: Mapping[str, Scheme], ignored: list[str], kv_cache: bool) -> dict[str, Any]:
    """The entry of config.json: layers by scheme, those that stay as they are, and how keys and values are kept."""
    groups: dict[Scheme, list[str]] = {}
    for name, scheme in schemes.items():
        groups.setdefault(scheme, []).append(name)
    # One scheme for all is said in one word; else each layer is named.
    listed = {
        f"group_{number}": config_group(scheme, ["Linear"] if len(groups) == 1 else names)
        for number, (scheme, names) in enumerate(groups.items())
    }
    formats = {scheme.format for scheme in groups}
    cache = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor", "dynamic": False}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "config_groups": listed,
        "ignore": ignored,
        "kv_cache_scheme": cache if kv_cache else None,
    }
