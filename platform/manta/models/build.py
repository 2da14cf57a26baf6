"""Builds a model from scratch, the same weights whatever the number of workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
