"""Methods that add little weights to linear layers, by peft: LoRA, DoRA, (IA)^3. Merged by our own formulas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manta.adapt import merging, parts, targets
from manta.adapt.writing import Writers, write_adapter, write_model
from manta.errors import InputError
from manta.sections.adapt import ALL_LINEAR, Ia3, Lora

# Heads that peft trains and saves by itself.
KNOWN_HEADS = ("classifier", "score", "qa_outputs")


def apply_lora(model: Any, settings: Lora) -> Any:
    """Low-rank updates beside the target layers: W x + s B A x, s = alpha / rank (Hu et al. 2021, arXiv:2106.09685).

    A starts random, B at zero, so that training starts from the base's own answers. Both are float32, whatever the
    base is loaded in. With `rslora` s = alpha / sqrt(rank) (arXiv:2312.03732). DoRA (Liu et al. 2024, arXiv:2402.09353)
    also learns the length of each row of W + s B A, which starts at that of W's.
    """
    from peft import LoraConfig, get_peft_model

    wanted = _all_linear(model) if settings.targets == ALL_LINEAR else settings.targets
    wanted = wanted or targets.LORA.get(model.config.model_type) or _known_to_peft(model)
    names, transposed = resolve(model, list(wanted))
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=names,
        fan_in_fan_out=transposed,
        use_rslora=settings.rslora,
        use_dora=settings.method == "dora",
        task_type=parts.task_type(model),
        modules_to_save=new_heads(model),
    )
    return get_peft_model(model, config)


def apply_ia3(model: Any, settings: Ia3) -> Any:
    """Factors, which start at 1: l * (W x + b) of most targets, W (l * x) + b of the feed-forward's last layer.

    (IA)^3, Liu et al. 2022, arXiv:2205.05638, section 3.3.
    """
    from peft import IA3Config, get_peft_model

    wanted, feedforward = settings.targets, settings.feedforward
    if wanted is None or feedforward is None:
        if model.config.model_type not in targets.IA3:
            raise InputError(
                f"adapt.targets = None: for models of type {model.config.model_type!r} there is no usual choice: set adapt.targets "
                f"and adapt.feedforward from {', '.join(_all_linear(model)) or 'none'}"
            )
        wanted, feedforward = targets.IA3[model.config.model_type]
    names, transposed = resolve(model, list(wanted))
    config = IA3Config(
        target_modules=names,
        feedforward_modules=list(feedforward),
        fan_in_fan_out=transposed,
        task_type=parts.task_type(model),
        modules_to_save=new_heads(model),
    )
    return get_peft_model(model, config)


def export(model: Any, weights: Mapping[str, Any], settings: Lora | Ia3) -> Writers:
    """The adapter as a PEFT directory, and with `merge` the model that has taken it in. The base itself is untouched."""
    from peft import get_peft_model_state_dict

    learnt = get_peft_model_state_dict(model, state_dict=dict(weights), save_embedding_layers=False)
    writers: Writers = {"adapter": lambda folder: write_adapter(model, learnt, folder)}
    if settings.merge:
        writers["model"] = lambda folder: write_model(model.get_base_model(), merging.merge(model, weights), folder)
    return writers


def new_heads(model: Any) -> list[str] | None:
    """The layers of heads that peft has to be told to train and to save as they are; it finds the others by itself."""
    return [
        f"{head}.{name}" if name else head
        for head in parts.heads(model)
        for name, layer in model.get_submodule(head).named_modules()
        if head not in KNOWN_HEADS and next(layer.parameters(recurse=False), None) is not None
    ] or None


def resolve(model: Any, wanted: list[str]) -> tuple[list[str], bool]:
    """(the layers as peft is to be told, whether their weights are transposed), for names or their ends.

    Short where they mean the same to peft, in full where heads or other layers end alike. Raises InputError.
    """
    layers = parts.linears(model)
    unknown = [target for target in wanted if not any(targets.matches(layer, target) for layer in layers)]
    if unknown:
        there = ", ".join(_all_linear(model))
        raise InputError(
            f"adapt.targets = {unknown}: the model has no such linear layers; "
            + (f"it has {there}" if there else "it has none: set adapt.method=full or freeze")
        )
    meant = {layer for layer in layers if any(targets.matches(layer, target) for target in wanted)}
    heads = tuple(f"{name}." for name in parts.heads(model))
    reached = {
        name
        for name, _ in model.named_modules()
        if any(targets.matches(name, target) for target in wanted) and not f"{name}.".startswith(heads or "\0")
    }
    transposed = any(parts.is_transposed(layers[name]) for name in meant)
    return (wanted if reached == meant else sorted(meant)), transposed


def _all_linear(model: Any) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in parts.linears(model)})


def _known_to_peft(model: Any) -> list[str]:
    """What peft takes for this type of model. Raises InputError where it knows of nothing."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    found = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model.config.model_type)
    if not isinstance(found, list):
        raise InputError(
            f"adapt.targets = None: for models of type {model.config.model_type!r} there is no usual choice: set it to "
            f"{ALL_LINEAR}, or to some of {', '.join(_all_linear(model)) or 'its linear layers, of which there are none'}"
        )
    return found
