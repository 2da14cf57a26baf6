"""int8 for models that answer in one pass (encoders with heads): the weights once, activations while the model runs, no data.

What is written is the compressed-tensors format of W8A8, which Transformers reads (and computes in floats, slowly).
`manta.models.load.opened` reads it into torch's int8 kernels, which are quicker on CPUs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.compress import copied
from manta.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from manta.sections.compress import Dynamic

Report = Callable[[int, int], None]  # called with (blocks done, blocks)

INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
SCHEME = {
    "targets": ["Linear"],
    "weights": {**INT8, "strategy": "channel", "dynamic": False},
    "input_activations": {**INT8, "strategy": "token", "dynamic": True},
}
LARGEST = 127  # of an int8 weight; -128 is left out, so that all scales are symmetric


def describe(settings: Dynamic) -> str:
    """What is about to be done, in a few words."""
    del settings
    return "int8 by rounding to nearest, activations as they come; embeddings and heads keep their precision"


def apply(source: Path, target: Path, settings: Dynamic, rows: np.ndarray | None, report: Report) -> dict[str, Any]:
    """Write `source` into the existing, empty folder `target` with the linear layers of its body in int8, one scale per output
    channel (float32). All else keeps its dtype. Raises InputError for decoders, which vLLM serves in other schemes."""
    del settings, rows
    from safetensors.torch import save_file

    from manta.models.classes import know, named
    from manta.models.load import model_config

    config = model_config(str(source))
    know(config)
    cls = named(config)
    if cls.__name__.endswith(("ForCausalLM", "LMHeadModel")):
        raise InputError(
            f"compress.dynamic: {source} is a {cls.__name__}, which vLLM serves: set compress.quantise (scheme: w8a8) instead"
        )
    model = cls.from_pretrained(source, dtype="auto", local_files_only=True)
    weights = quantised(model)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {**SCHEME, "format": "int-quantized"}},
        "ignore": [name for name, _ in linears(model) if f"{name}.weight_scale" not in weights],
    }
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    copied.copy(source, target)
    report(1, 1)
    return {"scheme": "int8_dynamic", "algorithm": "rtn"}


def linears(model: Any) -> list[tuple[str, Any]]:
    """Every linear layer with its name."""
    import torch

    return [(name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def quantised(model: Any) -> dict[str, Any]:
    """The model's tensors by name, each once; of linear layers in its body int8 (out, in) and, as weight_scale, float32 (out, 1)."""
    import torch

    body = f"{model.base_model_prefix}."
    inside = {f"{name}.weight" for name, _ in linears(model) if name.startswith(body)}
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen:
            continue  # tied to one that is there already
        seen.add(tensor.data_ptr())
        if name not in inside:
            found[name] = tensor.contiguous()
            continue
        weight = tensor.float()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
        found[name] = (weight / scale).round().clamp(-LARGEST, LARGEST).to(torch.int8)
        found[f"{name}_scale"] = scale
    return found
