"""Builds a model from scratch, the same weights whatever the number of workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def build(config: Mapping[str, Any], seed: int) -> Any:
    """A causal language model of `config` (the content of config.json), float32, initialised with N(0, 0.02) and `seed`.

    Each worker builds the whole model and DeepSpeed shares it out afterwards. DeepSpeed's zero.Init, which would save
    that memory, initialises `LlamaForCausalLM(config)` with a deviation of 1.0, and its random numbers would depend on
    the partition.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(config["model_type"], **settings), dtype=torch.float32
        )
