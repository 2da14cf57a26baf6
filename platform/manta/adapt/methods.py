"""The methods by name: each is a function that prepares the model and one that writes what was learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manta.adapt import layers, prompts, whole
from manta.adapt.writing import Adapter, Writers
from manta.sections.adapt import Adapt

ADAPTERS: dict[str, Adapter] = {
    "full": Adapter(whole.apply_full, whole.export),
    "freeze": Adapter(whole.apply_freeze, whole.export),
    "bitfit": Adapter(whole.apply_bitfit, whole.export),
    "lora": Adapter(layers.apply_lora, layers.export),
    "dora": Adapter(layers.apply_lora, layers.export),
    "ia3": Adapter(layers.apply_ia3, layers.export),
    "prefix": Adapter(prompts.apply_prefix, prompts.export),
    "prompt": Adapter(prompts.apply_prompt, prompts.export),
}


def apply(model: Any, settings: Adapt) -> Any:
    """The model with exactly the weights set to move that the method trains, and a new head's, whatever the method.

    What the method adds starts from torch's random numbers as they stand. Raises InputError for what cannot fit.
    """
    return ADAPTERS[settings.method].apply(model, settings)


def export(model: Any, weights: Mapping[str, Any], settings: Adapt) -> Writers:
    """What a finished run leaves, by folder name.

    `model` is what `apply` returned, `weights` its whole state dict on the CPU (gathered, under ZeRO 3).
    """
    return ADAPTERS[settings.method].export(model, weights, settings)


def describe(model: Any) -> str:
    """How much of what `apply` returned moves: "1,234 of 5,678,901 weights move (0.02%)".

    Where nothing but an adapter will be left that cannot become part of the model, it says so.
    """
    moving = total = 0
    for name, parameter in model.named_parameters():
        if ".original_module." in name:  # of a head that peft trains a copy of
            continue
        size = getattr(parameter, "ds_numel", parameter.numel())
        total += size
        moving += size if parameter.requires_grad else 0
    share = f"{moving:,} of {total:,} weights move ({moving / total:.2%})"
    return f"{share}; {prompts.LEAVES}" if prompts.stands_before(model) else share
