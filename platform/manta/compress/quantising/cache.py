"""Scales of an fp8 key-value cache: one for the keys and one for the values of each attention layer, known before serving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from manta.compress.quantising import blocks
from manta.compress.quantising.grids import FP8_MAX
from manta.errors import InputError


@torch.inference_mode()
def scales(model: Any, batches: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Name in the checkpoint (`...self_attn.k_scale`, `v_scale`) -> () float32: the largest magnitude over 448.

    Keys are taken as they enter the cache, after their positions turned them, which Transformers' own cache shows. Raises
    InputError where the attention layers are not called `self_attn`, the name under which vLLM looks for scales.
    """
    prefix, found = blocks.blocks(model)
    if not hasattr(found[0], "self_attn"):
        raise InputError(
            f"compress.quantise.kv_cache = 'fp8': blocks of type {model.config.model_type} have no self_attn: "
            "set compress.quantise.kv_cache=null"
        )
    most = torch.zeros(len(found), 2)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=blocks.fast_dtype() is torch.bfloat16):
        for batch in batches:
            kept = model(**batch, use_cache=True, logits_to_keep=1).past_key_values
            mask = batch.get("attention_mask")
            for number, layer in enumerate(kept.layers):
                for place, tensor in enumerate((layer.keys, layer.values)):  # (rows, heads, seq, head_dim)
                    real = tensor if mask is None else tensor * mask[:, None, :, None]
                    most[number, place] = torch.maximum(most[number, place], real.abs().amax().float())
    names = ("k_scale", "v_scale")
    return {
        f"{prefix}.{number}.self_attn.{name}": (most[number, place] / FP8_MAX).clone()
        for number in range(len(found))
        for place, name in enumerate(names)
    }
