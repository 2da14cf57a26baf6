"""Full tuning, freezing and LoRA: each a function that prepares the model and one that writes what was learnt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from manta.errors import InputError
from manta.sections.train import Adapt

Writers = dict[str, Callable[[Path], None]]  # folder name -> writes that folder's files


class Adapter(NamedTuple):
    """`apply(model, settings)` returns the model to train; `export(model, weights, settings, source)` what to write."""

    apply: Callable[[Any, Adapt], Any]
    export: Callable[[Any, Mapping[str, Any], Adapt, Path], Writers]


def apply(model: Any, settings: Adapt) -> Any:
    """The model with exactly the weights set to move that the method trains. Raises InputError for what cannot fit."""
    return ADAPTERS[settings.method].apply(model, settings)


def export(model: Any, weights: Mapping[str, Any], settings: Adapt, source: Path) -> Writers:
    """What a finished run leaves, by folder name.

    `model` is what `apply` returned, `weights` its whole state dict on the CPU (gathered, under ZeRO 3), `source` the
    Hugging Face directory it came from.
    """
    return ADAPTERS[settings.method].export(model, weights, settings, source)


# --- full and freeze -------------------------------------------------------------------------------------------------


def apply_full(model: Any, settings: Adapt) -> Any:
    """Every weight moves."""
    del settings
    return model.requires_grad_(True)


def apply_freeze(model: Any, settings: Adapt) -> Any:
    """The embeddings and the first `freeze_layers` blocks stay; an output layer tied to the embeddings stays with them."""
    layers = model.get_decoder().layers
    if settings.freeze_layers > len(layers):
        raise InputError(
            f"adapt.freeze_layers = {settings.freeze_layers}, but the model has {len(layers)} layers: set it to at most {len(layers)}"
        )
    model.requires_grad_(True)
    for still in (model.get_input_embeddings(), *layers[: settings.freeze_layers]):
        still.requires_grad_(False)
    return model


def export_model(model: Any, weights: Mapping[str, Any], settings: Adapt, source: Path) -> Writers:
    """The whole model."""
    del settings, source
    return {"model": lambda folder: model.save_pretrained(folder, state_dict=dict(weights))}


# --- LoRA ------------------------------------------------------------------------------------------------------------


def apply_lora(model: Any, settings: Adapt) -> Any:
    """Low-rank updates beside the target layers: W x + (alpha / rank) B A x (Hu et al. 2021, arXiv:2106.09685).

    A starts random, B at zero, so that training starts from the base's own answers. Both are float32, whatever the
    base is loaded in.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    if unknown := [name for name in settings.targets if name not in linear]:
        raise InputError(
            f"adapt.targets = {unknown}: the model has no such linear layers; it has {', '.join(sorted(linear))}"
        )
    if not settings.targets:
        raise InputError("adapt.targets = []: name at least one layer, such as q_proj")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def export_lora(model: Any, weights: Mapping[str, Any], settings: Adapt, source: Path) -> Writers:
    """The adapter as a PEFT directory, and with `merge` the model that has taken it in."""
    writers: Writers = {"adapter": lambda folder: write_adapter(model, weights, folder)}
    if settings.merge:
        writers["model"] = lambda folder: write_merged(weights, settings, source, folder)
    return writers


def write_adapter(model: Any, weights: Mapping[str, Any], folder: Path) -> None:
    """adapter_model.safetensors and adapter_config.json, as peft and vLLM load them; the same run, the same bytes."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    learnt = get_peft_model_state_dict(model, state_dict=dict(weights), save_embedding_layers=False)
    save_file(
        {name: tensor.contiguous() for name, tensor in learnt.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    config = model.peft_config[model.active_adapter].to_dict()
    # Where the base lies on this machine is nobody's business: the manifest's inputs say which model it is.
    config |= {"base_model_name_or_path": None, "inference_mode": True}
    plain = {
        key: sorted(value) if isinstance(value, set) else getattr(value, "value", value)
        for key, value in config.items()
    }
    (folder / "adapter_config.json").write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_merged(weights: Mapping[str, Any], settings: Adapt, source: Path, folder: Path) -> None:
    """The base with each update added to its weight, W + (alpha / rank) B A, computed in float32, kept in W's type."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    merged = merge(weights, settings.alpha / settings.rank)
    config = AutoConfig.from_pretrained(source, local_files_only=True)
    with torch.device("meta"):  # only its class and configuration are wanted: the tensors come from `merged`
        bare = AutoModelForCausalLM.from_config(config, dtype=next(iter(merged.values())).dtype)
    bare.save_pretrained(folder, state_dict=merged)


def merge(weights: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """A PEFT model's state dict as one of its base model: names as the base has them, updates added."""
    prefix, inner, a_suffix = "base_model.model.", ".base_layer.", ".lora_A.default.weight"
    merged = {}
    for name, tensor in weights.items():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        merged[name.removeprefix(prefix).replace(inner, ".")] = tensor
    for name, down in weights.items():  # A: (rank, in), B: (out, rank), W: (out, in)
        if name.endswith(a_suffix):
            layer = name.removesuffix(a_suffix)
            up = weights[f"{layer}.lora_B.default.weight"]
            target = layer.removeprefix(prefix) + ".weight"
            base = merged[target]
            merged[target] = (base.float() + scale * (up.float() @ down.float())).to(base.dtype)
    return merged


ADAPTERS: dict[str, Adapter] = {
    "full": Adapter(apply_full, export_model),
    "freeze": Adapter(apply_freeze, export_model),
    "lora": Adapter(apply_lora, export_lora),
}
