"""int8 linear layers by torch's kernels, for models that answer in one pass on a CPU: read from compressed-tensors files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from manta.models.families import Config


def stored_so(config: Config) -> bool:
    """Whether a configuration tells of int8 weights by channel, with activations that are scaled as they come."""
    told = config.get("quantization_config") or {}
    groups = list((told.get("config_groups") or {}).values())
    return told.get("format") == "int-quantized" and all(
        group["weights"]["num_bits"] == 8
        and group["weights"]["strategy"] == "channel"
        and bool((group.get("input_activations") or {}).get("dynamic"))
        for group in groups
    )


def opened(folder: Path, config: Config) -> Any:
    """The model of such a directory, ready to answer: in float32, the quantised layers in torch's dynamic int8 kernels.

    These scale activations by tensor rather than by token, to 7 bits where the processor adds up in 16: answers are near
    those of the file's own scheme, not the same. Raises ValueError where tensors are missing.
    """
    from safetensors.torch import load_file
    from transformers import AutoConfig

    from manta.models.classes import know, named

    know(config)
    tensors: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    scales = {
        name.removesuffix(".weight_scale"): tensor for name, tensor in tensors.items() if name.endswith(".weight_scale")
    }
    plain = AutoConfig.from_pretrained(folder, local_files_only=True)
    del plain.quantization_config
    model = named(config)(plain).float().eval()
    floats = {
        name: tensor
        for name, tensor in tensors.items()
        if name.rpartition(".")[0] not in scales or name.endswith(".bias")
    }
    missing, unknown = model.load_state_dict(floats, strict=False)
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    lost = [name for name in missing if name.rpartition(".")[0] not in scales and name not in tied]
    if lost or unknown:
        raise ValueError(f"{folder}: its weights and its config.json do not fit: {', '.join([*lost, *unknown][:3])}")
    model.tie_weights()
    for name, scale in scales.items():
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], _linear(model.get_submodule(name), tensors[f"{name}.weight"], scale))
    return model


def _linear(plain: Any, weight: Any, scale: Any) -> Any:
    """A layer of the same int8 weights (out, in) and scales (out, 1) in torch's kernels."""
    import warnings

    import torch

    # What torch wants to take away in a later release; the locks pin one that has it.
    warnings.filterwarnings("ignore", message=r"torch\.quantize_per_tensor, .*are deprecated", category=UserWarning)
    made = torch.ao.nn.quantized.dynamic.Linear(plain.in_features, plain.out_features, plain.bias is not None)
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    packed = torch._make_per_channel_quantized_tensor(weight, scale[:, 0].double(), zeros, 0)
    bias = None if plain.bias is None else plain.bias.detach()
    made.set_weight_bias(packed, bias)
    return made
