"""Builds a model from scratch, the same weights whatever the number of workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manta.errors import InputError


def build(config: Mapping[str, Any], seed: int, objective: str = "clm") -> Any:
    """A model of `config` (the content of config.json) for `objective`, float32, initialised as its paper says by `seed`.

    Llama, GPT-2, BERT and BART start from N(0, 0.02), with what ends GPT-2's residual branches divided by
    sqrt(2 layers); T5's deviations follow from the widths (arXiv:1910.10683's code); the LSTM is uniform
    (arXiv:1708.02182). Raises InputError if the objective does not train such a model.

    Each worker builds the whole model and DeepSpeed shares it out afterwards. DeepSpeed's zero.Init, which would save
    that memory, initialises `LlamaForCausalLM(config)` with a deviation of 1.0, and its random numbers would depend on
    the partition.
    """
    import torch
    from transformers import AutoConfig

    from manta.models import classes

    auto = classes.auto(config, objective)
    settings = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return auto.from_config(AutoConfig.for_model(config["model_type"], **settings), dtype=torch.float32)


def recompute(model: Any) -> None:
    """Have each layer keep its input alone and compute the rest again on the way back (arXiv:1604.06174).

    `model` may hold a model of Transformers rather than be one. The random numbers of dropout are repeated, so losses
    and gradients stay the same to the bit. Raises InputError where the model has no layers that can do it.
    """
    from transformers import PreTrainedModel

    inner = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    if inner is None or not inner.supports_gradient_checkpointing:
        raise InputError(
            f"resources.activation_checkpointing = True: {type(inner or model).__name__} has no layers that can be computed again: "
            "set resources.activation_checkpointing=false, and resources.micro_batch lower"
        )
    inner.gradient_checkpointing_enable({"use_reentrant": False})
