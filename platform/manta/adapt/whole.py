"""Methods that train weights of the model itself: all of them, all above some layers, biases and norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manta.adapt import parts
from manta.adapt.writing import Writers
from manta.errors import InputError
from manta.sections.adapt import Adapt, BitFit, Freeze, Full


def apply_full(model: Any, settings: Full) -> Any:
    """Every weight moves."""
    del settings
    return model.requires_grad_(True)


def apply_freeze(model: Any, settings: Freeze) -> Any:
    """The embeddings and the first `freeze_layers` blocks stay, or all but the head.

    An output layer that is tied to the embeddings stays with them. Raises InputError where nothing would move.
    """
    if settings.freeze_layers == "all":
        return _only_heads(model)
    blocks = parts.blocks(model)
    if settings.freeze_layers > len(blocks):
        raise InputError(
            f"adapt.freeze_layers = {settings.freeze_layers}, but the model has {len(blocks)} layers: set it to at most {len(blocks)}"
        )
    model.requires_grad_(True)
    for still in (*parts.embeddings(model), *blocks[: settings.freeze_layers]):
        still.requires_grad_(False)
    return model


def _only_heads(model: Any) -> Any:
    heads = parts.heads(model)
    if not heads:
        raise InputError(
            f"adapt.freeze_layers = 'all' trains a new head alone, and {type(model).__name__} answers without one: set it to "
            f"a number below {len(parts.blocks(model))}"
        )
    model.requires_grad_(False)
    for name in heads:
        model.get_submodule(name).requires_grad_(True)
    return model


def apply_bitfit(model: Any, settings: BitFit) -> Any:
    """Biases and norms move, and a new head (after Ben Zaken et al., arXiv:2106.10199, who train biases and heads).

    Norms' weights are moved too: they are as few. Raises InputError for models whose layers have no biases.
    """
    del settings
    heads = tuple(f"{name}." for name in parts.heads(model))
    names = [name for name, _ in model.named_parameters() if not name.startswith(heads or "\0")]
    biases = {name for name in names if name.endswith(".bias")}
    if not biases:
        raise InputError(
            f"adapt.method = 'bitfit' trains biases, and a model of type {model.config.model_type!r} has none: set "
            "adapt.method=ia3, which trains as few weights, or adapt.method=lora"
        )
    model.requires_grad_(False)
    for name, module in model.named_modules():
        whole = "norm" in type(module).__name__.lower() or f"{name}.".startswith(heads or "\0")
        for key, parameter in module.named_parameters(recurse=False):
            if whole or f"{name}.{key}" in biases:
                parameter.requires_grad_(True)
    return model


def export(model: Any, weights: Mapping[str, Any], settings: Adapt) -> Writers:
    """The whole model."""
    del settings
    return {"model": lambda folder: model.save_pretrained(folder, state_dict=dict(weights))}
