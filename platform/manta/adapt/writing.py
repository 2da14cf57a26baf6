"""What the methods leave on disk: PEFT directories and whole models, the same bytes from the same weights."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Writers = dict[str, Callable[[Path], None]]  # folder name -> writes that folder's files


class Adapter(NamedTuple):
    """`apply(model, settings)` returns the model to train; `export(model, weights, settings)` what to write."""

    apply: Callable[[Any, Any], Any]
    export: Callable[[Any, Mapping[str, Any], Any], Writers]


def write_adapter(model: Any, learnt: Mapping[str, Any], folder: Path) -> None:
    """adapter_model.safetensors and adapter_config.json, as peft and vLLM load them; `learnt` by peft's names."""
    from safetensors.torch import save_file

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


def write_model(like: Any, weights: Mapping[str, Any], folder: Path) -> None:
    """A Hugging Face directory of a model of the class and configuration of `like`, with these weights."""
    import torch

    with torch.device("meta"):  # only its class and configuration are wanted: the tensors are `weights`
        bare = type(like)(copy.deepcopy(like.config))
    bare.to(next(iter(weights.values())).dtype).save_pretrained(folder, state_dict=dict(weights))
