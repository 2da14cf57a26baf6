"""Which weights move how: parameter groups by kind and layer, the optimizers by name, and what works under ZeRO."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from manta.errors import InputError
from manta.sections.optimisation import Optimizer

# The number of a layer as Transformers' models name it: model.layers.3., transformer.h.3., encoder.layer.3., block.3.
_LAYER = re.compile(r"^(.*?)\b(?:layers|layer|blocks|block|h)\.(\d+)\.")
_BELOW = re.compile(r"embed|\bwte\b|\bwpe\b|\bshared\b")


# --- groups ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Depths:
    """How far each parameter is from the input: 0 is the embeddings, then the layers from 1, what follows is `above`."""

    of: dict[str, int]
    layers: int  # of all stacks together: a decoder's layers stand above its encoder's

    @property
    def above(self) -> int:
        return self.layers + 1


def depths(names: Iterable[str]) -> Depths:
    """The depth of each parameter, from nothing but its name. Embeddings tied to the output layer count as embeddings."""
    names = list(names)
    stacks: dict[str, int] = {}  # what stands before the number -> how many layers
    for name in names:
        if match := _LAYER.match(name):
            stacks[match[1]] = max(stacks.get(match[1], 0), int(match[2]) + 1)
    first, below = {}, 0
    for prefix, count in stacks.items():
        first[prefix], below = below + 1, below + count
    inner = list(stacks)[:-1]
    found = {}
    for name in names:
        if match := _LAYER.match(name):
            found[name] = first[match[1]] + int(match[2])
        elif _BELOW.search(name):
            found[name] = 0
        else:  # an encoder's last norm stands with its last layer; anything else is above all layers
            ends = [first[prefix] + stacks[prefix] - 1 for prefix in inner if prefix and name.startswith(prefix)]
            found[name] = ends[0] if ends else below + 1
    return Depths(found, below)


def groups(model: Any, settings: Optimizer, by_layer: bool = False) -> list[dict[str, Any]]:
    """The parameter groups of a torch optimizer: frozen weights are left out, every other stands in exactly one.

    Matrices decay, norms and biases do not (GPT-3, arXiv:2005.14165, appendix B, and all that followed it); tables of
    embeddings decay unless settings.decay_embeddings is false, as OLMo 2 has it (arXiv:2501.00656, section 3.4). Each
    group also has `lr_scale`, by which its rate is multiplied: layer_lr_decay ** (layers below the top one), the
    embeddings last, what stands above the layers at the full rate (arXiv:1801.06146, 2003.10555). Groups are split by
    layer, and have `depth`, where the rates differ or `by_layer` asks for it; Muon's matrices have `muon` set.
    """
    import torch

    tables = {
        id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)
    }  # by identity: tied tables have one name only
    moving = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    place = depths(name for name, _ in model.named_parameters())
    split = by_layer or settings.layer_lr_decay < 1.0
    found: dict[tuple[int, bool, bool], list[Any]] = {}
    for name, parameter in moving:
        table, matrix = id(parameter) in tables, parameter.ndim >= 2
        decays = matrix and (settings.decay_embeddings or not table)
        muon = settings.name == "muon" and parameter.ndim in (2, 3) and not table and _LAYER.match(name) is not None
        found.setdefault((place.of[name] if split else 0, not decays, not muon), []).append(parameter)
    made = []
    for (depth, plain, other), parameters in sorted(found.items(), key=lambda item: item[0]):
        group = {"params": parameters, "weight_decay": 0.0 if plain else settings.weight_decay}
        group["lr_scale"] = settings.layer_lr_decay ** max(0, place.layers - depth) if split else 1.0
        group |= {"depth": depth} if split else {}
        group |= {"muon": not other} if settings.name == "muon" else {}
        made.append(group)
    return made


def set_rates(groups: Iterable[dict[str, Any]], lr: float, lowest: int = 0) -> None:
    """Give each group its rate for the next step: `lr` times its scale, 0 below the depth `lowest`."""
    for group in groups:
        group["lr"] = lr * group["lr_scale"] if group.get("depth", lowest) >= lowest else 0.0


# --- optimizers ------------------------------------------------------------------------------------------------------


def make(groups: list[dict[str, Any]], settings: Optimizer) -> Any:
    """The torch optimizer that `settings` names, over `groups`; one pass over memory per step where torch has one."""
    return MAKERS[settings.name](groups, settings)


def _betas(settings: Optimizer) -> tuple[float, float]:
    assert settings.betas is not None
    return settings.betas[0], settings.betas[1]


def _adamw(groups: list[dict[str, Any]], settings: Optimizer) -> Any:
    """AdamW: p <- p - lr * (m / (sqrt(v) + eps) + weight_decay * p), m and v without their bias towards 0."""
    import torch

    return torch.optim.AdamW(groups, lr=settings.lr, betas=_betas(settings), eps=settings.eps, fused=True)


def _adam(groups: list[dict[str, Any]], settings: Optimizer) -> Any:
    """Adam as it was published: the decay is part of the gradient."""
    import torch

    return torch.optim.Adam(groups, lr=settings.lr, betas=_betas(settings), eps=settings.eps, fused=True)


def _sgd(groups: list[dict[str, Any]], settings: Optimizer) -> Any:
    """SGD: m <- momentum * m + g; p <- p - lr * m. The decay is part of the gradient g."""
    import torch

    return torch.optim.SGD(
        groups, lr=settings.lr, momentum=settings.momentum, nesterov=bool(settings.nesterov), fused=True
    )


def _lion(groups: list[dict[str, Any]], settings: Optimizer) -> Any:
    from manta.train.updates import Lion

    return Lion(groups, lr=settings.lr, betas=_betas(settings))


def _muon(groups: list[dict[str, Any]], settings: Optimizer) -> Any:
    from manta.train.updates import Muon

    assert settings.eps is not None
    assert settings.momentum is not None
    return Muon(groups, settings.lr, _betas(settings), settings.eps, settings.momentum, bool(settings.nesterov))


MAKERS: dict[str, Callable[[list[dict[str, Any]], Optimizer], Any]] = {
    "adamw": _adamw,
    "adam": _adam,
    "sgd": _sgd,
    "lion": _lion,
    "muon": _muon,
}


# --- under ZeRO ------------------------------------------------------------------------------------------------------

_MUON = (
    "it needs whole matrices, which this stage cuts into flat parts; DeepSpeed's own Muon clips the orthogonal update to "
    "optimizer.grad_clip instead of the gradient, which leaves next to nothing of a step"
)
# (optimizer, ZeRO stage) -> why it is refused; nothing where it works. Tried with deepspeed 0.19.8, fp32 and bf16: the
# losses are those of the optimizer without DeepSpeed, and a resumed run repeats them to the bit.
SUPPORTED: dict[tuple[str, int], str] = {(name, stage): "" for name in MAKERS for stage in range(4)} | {
    ("muon", stage): _MUON for stage in (1, 2, 3)
}
# Whose state DeepSpeed's universal checkpoints hold: what they carry over is Adam's two moments, by name.
RESHARDED = ("adamw", "adam")


def check(name: str, zero_stage: int) -> None:
    """Raise InputError if the optimizer does not work under this ZeRO stage."""
    if reason := SUPPORTED[name, zero_stage]:
        works = " or ".join(str(stage) for stage in range(4) if not SUPPORTED[name, stage])
        raise InputError(
            f"optimizer.name = {name!r} does not work with resources.zero_stage = {zero_stage}: {reason}: "
            f"set resources.zero_stage={works}, or optimizer.name=adamw"
        )


def check_resharding(name: str, workers: int) -> None:
    """Raise InputError if a checkpoint of ZeRO 1 to 3 that `workers` workers wrote cannot be loaded by another number."""
    if name not in RESHARDED:
        raise InputError(
            f"optimizer.name = {name!r}: its state cannot be shared out anew, DeepSpeed converts that of "
            f"{' and '.join(RESHARDED)} alone: set resources.workers={workers}, as the checkpoint was written"
        )


class Hold:
    """Makes an optimizer's step() do nothing while `on`: how a step is left out whatever DeepSpeed wraps around it.

    DeepSpeed steps the optimizer it was given after it has summed, measured and clipped the gradients, and clears them
    afterwards; held, neither weights nor moments nor their count change. Made before the engine is built.
    """

    def __init__(self, optimizer: Any):
        self.on = False
        step = optimizer.step

        def unless_held(*arguments: Any, **named: Any) -> Any:
            return None if self.on else step(*arguments, **named)

        optimizer.step = unless_held


@contextlib.contextmanager
def kept_apart(optimizer: Any) -> Iterator[None]:
    """Load a checkpoint inside: each group keeps its own settings, and each parameter its own count of steps.

    Loading a universal checkpoint under ZeRO 3, DeepSpeed gives all groups the settings of the first, so that norms
    would decay and layers learn at one rate, and puts one tensor into all groups as Adam's count of steps, which torch
    then advances once for every group.
    """
    before = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    yield
    for group, own in zip(optimizer.param_groups, before, strict=True):
        group.update(own)
    for state in optimizer.state.values():
        if hasattr(state.get("step"), "clone"):
            state["step"] = state["step"].clone()
