"""Finds the Hugging Face directory behind a recipe's model input, and loads it."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from manta.artifact import Resolved
from manta.errors import InputError
from manta.models.families import Config
from manta.storage import Folder

DTYPES = {"bf16": "bfloat16", "fp32": "float32"}


def model_url(resolved: Resolved) -> str:
    """Where the model's files are: `model/` of an artifact, else the directory itself; packages are converted first."""
    if resolved.kind == "package":
        from manta.package import convert

        return str(convert(resolved.ref))
    return resolved.path if resolved.kind == "directory" else f"{resolved.path}/model"


@contextlib.contextmanager
def model_folder(resolved: Resolved) -> Iterator[Path]:
    """Yield a local Hugging Face directory: the place itself, or a temporary copy of a remote one."""
    with Folder(model_url(resolved)).local() as path:
        yield path


def model_config(url: str) -> dict[str, Any]:
    """config.json of the Hugging Face directory at `url`, without torch."""
    return dict(json.loads(Folder(url).read_text("config.json")))


def opened(folder: Path, dtype: str, auto: Any = None) -> Any:
    """The model of a local directory to answer with, not to train: by the class `auto` of Transformers, or the one its
    config.json names, in `dtype`; int8 weights of a model with a head by torch's int8 kernels, in float32."""
    import torch

    from manta.models import int8
    from manta.models.classes import know, named

    config = model_config(str(folder))
    if int8.stored_so(config):
        return int8.opened(folder, config)
    know(config)
    return (auto or named(config)).from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True).eval()


def weight_bytes(model: Path) -> int:
    """Bytes of the weights of a Hugging Face directory: its safetensors files, or the older format's."""
    files = list(model.glob("*.safetensors")) or list(model.glob("pytorch_model*.bin"))
    return sum(file.stat().st_size for file in files)


def load(
    folder: Path,
    precision: str = "fp32",
    objective: str = "clm",
    seed: int = 0,
    note: Callable[[str], Any] = warnings.warn,
    head: Config | None = None,
) -> Any:
    """The model of a local Hugging Face directory for `objective`, in `precision` (bf16 or fp32), on the CPU.

    `head` is what its configuration is to say of the head that a task trains (id2label, label2id, problem_type); a head
    of the directory that tells other labels apart is left behind. Heads that the objective needs and the directory lacks
    start from `seed`, the same on all workers, and `note` is called with a sentence that says so. Raises InputError if
    the objective does not train models of this type, or weights of the model itself are missing.
    """
    import torch

    from manta.models import classes

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    auto = classes.auto(config, objective)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, found = auto.from_pretrained(
            folder,
            dtype=getattr(torch, DTYPES[precision]),
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=head is not None,
            **(head or {}),
        )
        missing = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
        if head is not None and not _same_labels(config, head):
            missing = sorted({*missing, *_renewed(model)})
    if lacking := [name for name in missing if not _in_head(model, name)]:
        raise InputError(
            f"model.source = {str(folder)!r} lacks {len(lacking)} weights of its own config.json, {lacking[0]} among them: "
            "name a directory that is whole"
        )
    if missing:
        note(f"{type(model).__name__} starts with new weights for objective.name = {objective!r}: {', '.join(missing)}")
    return model


def _same_labels(config: Config, head: Config) -> bool:
    named = {str(number): label for number, label in (head.get("id2label") or {}).items()}
    return bool((config.get("id2label") or {}) == named)


def _renewed(model: Any) -> list[str]:
    """Start the output layers anew: Transformers loads any of the right size, whatever labels they told apart."""
    import torch

    names = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.startswith(f"{model.base_model_prefix}."):
            torch.nn.init.normal_(module.weight, std=getattr(model.config, "initializer_range", 0.02))
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
            names += [f"{name}.{part}" for part, _ in module.named_parameters()]
    return names


def _in_head(model: Any, name: str) -> bool:
    """Whether a weight lies beside the model's body: in an output layer, or in the pooler that only pairs of text need."""
    body = model.base_model_prefix
    if not hasattr(model, body):
        return bool(name.startswith(("lm_head.", "pooler.")))
    return not name.startswith(f"{body}.") or name.startswith(f"{body}.pooler.")
