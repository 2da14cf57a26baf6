"""The checkpoint of a model that is being quantised: a block is written when it is done, and leaves memory."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from manta.compress.quantising import writing
from manta.compress.quantising.memory import release
from manta.compress.quantising.packing import Coded, forms, quantization_config
from manta.compress.quantising.schemes import Scheme
from manta.compress.quantising.writing import Form, Writer


@contextlib.contextmanager
def opened(
    model: Any,
    schemes: Mapping[str, Scheme],
    cache_scales: Mapping[str, torch.Tensor],
    source: Path,
    target: Path,
) -> Iterator[Checkpoint]:
    """What takes the blocks of `model`; at the end the rest of it follows into the folder `target`, and config.json.

    `schemes`: full name of a linear layer -> what it becomes; all else gets the dtype of `source`. `cache_scales`: full name
    of a scale of an attention layer's keys or values -> () float32.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    dtype = getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")
    cached = {name: Form.of(tensor) for name, tensor in cache_scales.items()}
    with writing.opened(_forms(model, schemes, dtype) | cached, target) as writer:
        checkpoint = Checkpoint(writer, dtype)
        yield checkpoint
        for name, tensor in model.state_dict().items():
            if name in writer.left:
                writer.write(name, tensor.to(_stored_as(tensor, dtype)))
        for name, tensor in cache_scales.items():
            writer.write(name, tensor)
    linear = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    ignored = [name for name in linear if name not in checkpoint.done]
    config["quantization_config"] = quantization_config(checkpoint.done, ignored, bool(cache_scales))
    (target / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class Checkpoint:
    """Use `opened`. `done`: full name -> scheme of the layers that were taken."""

    def __init__(self, writer: Writer, dtype: torch.dtype):
        self._writer, self._dtype = writer, dtype
        self.done: dict[str, Scheme] = {}

    def take(self, name: str, block: torch.nn.Module, found: Mapping[str, Coded]) -> None:
        """Write the block of that full name, whose layers `found` (name within the block) are coded. It loses all weights."""
        for layer, weight in found.items():
            self.done[f"{name}.{layer}"] = weight.scheme
            for end, tensor in weight.tensors.items():
                self._writer.write(f"{name}.{layer}.{end}", tensor)
        for key, tensor in block.state_dict().items():
            if key.removesuffix(".weight") not in found:
                self._writer.write(f"{name}.{key}", tensor.to(_stored_as(tensor, self._dtype)))
        for parameter in block.parameters():
            release(parameter.data)
            parameter.data = torch.empty(0, dtype=parameter.dtype)


def _forms(model: Any, schemes: Mapping[str, Scheme], dtype: torch.dtype) -> dict[str, Form]:
    """Everything that the files will hold of the model."""
    found: dict[str, Form] = {}
    tied = model.config.tie_word_embeddings and model.get_output_embeddings() is not None
    for name, tensor in model.state_dict().items():
        layer = name.removesuffix(".weight")
        if layer in schemes:
            found |= {f"{layer}.{end}": form for end, form in forms(schemes[layer], *tensor.shape).items()}
        elif not (tied and name.endswith("lm_head.weight")):
            found[name] = Form(_stored_as(tensor, dtype), tuple(tensor.shape))
    return found


def _stored_as(tensor: torch.Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if tensor.is_floating_point() else tensor.dtype
