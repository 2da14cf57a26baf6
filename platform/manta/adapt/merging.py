"""Adapters taken into the weights they stand beside, in float32, from a gathered state dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manta.adapt import parts
from manta.errors import InputError

PREFIX = "base_model.model."  # what peft puts before the names of the base
# Parts of names that the base does not have: what was learnt, and the head that a trained copy replaced.
ADDED = (".lora_A.", ".lora_B.", ".lora_magnitude_vector.", ".ia3_l.", ".original_module.")


def merge(model: Any, weights: Mapping[str, Any]) -> dict[str, Any]:
    """A PEFT model's state dict as one of its base model: names as the base has them, each layer with its update.

    Computed in float32 and kept in the type of the base, because under ZeRO the live layers' weights are not whole.
    """
    merged = {_plain(name): tensor for name, tensor in weights.items() if not any(part in name for part in ADDED)}
    for name in weights:
        if name.endswith(".lora_A.default.weight"):
            layer = name.removesuffix(".lora_A.default.weight")
            _put(merged, layer, with_low_rank(model, weights, layer))
        elif name.endswith(".ia3_l.default"):
            layer = name.removesuffix(".ia3_l.default")
            for key, tensor in with_factors(model, weights, layer).items():
                _put(merged, layer, tensor, key)
    return merged


def unmerge(model: Any, weights: Mapping[str, Any]) -> dict[str, Any]:
    """The way back: the weights before `merge`, of a PEFT model whose base has the adapter in its weights already.

    LoRA: W = V - s B A; (IA)^3: divided by the factors. Exact but for rounding: of float32 about 1e-7 of the larger of
    both, of bfloat16 what it rounded away when it was merged. A head stays as it was trained: there was none before.
    Raises InputError for DoRA, which forgets the rows' lengths, and for factors of 0.
    """
    found = {_plain(name): tensor for name, tensor in weights.items() if not any(part in name for part in ADDED)}
    for name in weights:
        if ".lora_magnitude_vector." in name:
            raise InputError(
                "dora sets each row's length anew, and the merged model does not say what it was: take the base itself"
            )
        if name.endswith(".lora_A.default.weight"):
            layer = name.removesuffix(".lora_A.default.weight")
            merged = weights[f"{layer}.base_layer.weight"].float()
            _put(found, layer, 2 * merged - with_low_rank(model, weights, layer))
        elif name.endswith(".ia3_l.default"):
            layer = name.removesuffix(".ia3_l.default")
            factors = weights[name].float()
            if not factors.all():
                raise InputError(
                    f"(IA)^3 has a factor of 0 in {layer}, so the base's weights are gone: take the base itself"
                )
            inverse = {**weights, name: 1.0 / factors}
            for key, tensor in with_factors(model, inverse, layer).items():
                _put(found, layer, tensor, key)
    return found


def with_low_rank(model: Any, weights: Mapping[str, Any], layer: str) -> Any:
    """LoRA: V = W + s B A, of W (out, in), A (rank, in), B (out, rank), and peft's s for this layer.

    DoRA: m_i V_i / |V_i| for each row i, m what was learnt (arXiv:2402.09353, equation 5).
    """
    import torch

    module = model.get_submodule(layer)
    turned = parts.is_transposed(module.get_base_layer())
    weight = weights[f"{layer}.base_layer.weight"].float()
    down, up = weights[f"{layer}.lora_A.default.weight"].float(), weights[f"{layer}.lora_B.default.weight"].float()
    rows = (weight.T if turned else weight) + module.scaling["default"] * (up @ down)
    if (lengths := weights.get(f"{layer}.lora_magnitude_vector.default.weight")) is not None:
        rows = rows * (lengths.float() / torch.linalg.norm(rows, dim=1))[:, None]
    return rows.T if turned else rows


def with_factors(model: Any, weights: Mapping[str, Any], layer: str) -> dict[str, Any]:
    """(IA)^3: rows of W (out, in), and the bias, times l (out, 1); or columns times l (1, in), the bias as it is."""
    module = model.get_submodule(layer)
    factors = weights[f"{layer}.ia3_l.default"].float()
    turned = parts.is_transposed(module.get_base_layer())
    found = {"weight": weights[f"{layer}.base_layer.weight"].float() * (factors.T if turned else factors)}
    bias = weights.get(f"{layer}.base_layer.bias")
    if bias is not None and not module.is_feedforward:
        found["bias"] = bias.float() * factors.reshape(-1)
    return found


def _plain(name: str) -> str:
    return name.removeprefix(PREFIX).replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")


def _put(merged: dict[str, Any], layer: str, tensor: Any, key: str = "weight") -> None:
    name = f"{layer.removeprefix(PREFIX)}.{key}"
    merged[name] = tensor.to(merged[name].dtype).contiguous()
