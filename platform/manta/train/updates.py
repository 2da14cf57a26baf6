"""The optimizers that DeepSpeed and torch do not offer as they are wanted here: Lion and Muon, as torch optimizers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.optim.adamw import adamw

# Newton-Schulz: five rounds of a quintic whose slope at 0 is steep (Jordan 2024, "Muon: An optimizer for hidden layers in
# neural networks"). Singular values end between about 0.7 and 1.2, which is near enough to 1.
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
# Muon's update has entries of this size on average, as AdamW's usually have, so both learn at one rate
# (arXiv:2502.16982, section 2.2).
ADAMW_SIZE = 0.2
STACKED = 2**25  # elements of equal matrices that are made orthogonal in one go


class Lion(torch.optim.Optimizer):
    """Lion (arXiv:2302.06675, algorithm 2): steps of equal size in the direction of an interpolated momentum.

    p <- p - lr * (sign(b1 * m + (1 - b1) * g) + weight_decay * p);  m <- b2 * m + (1 - b2) * g

    A few passes over all tensors of a group at once, whatever their number. State: one tensor, half of AdamW's.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], weight_decay: float = 0.0):
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            parameters, gradients = _moving(group)
            if not parameters:
                continue
            (momenta,) = _states(self, parameters, "exp_avg")
            (fast, slow), lr = group["betas"], group["lr"]
            update = torch._foreach_lerp(momenta, gradients, 1.0 - fast)
            torch._foreach_sign_(update)
            if group["weight_decay"] != 0.0:
                torch._foreach_mul_(parameters, 1.0 - lr * group["weight_decay"])
            torch._foreach_add_(parameters, update, alpha=-lr)
            torch._foreach_lerp_(momenta, gradients, 1.0 - slow)


class Muon(torch.optim.Optimizer):
    """Muon for the groups marked `muon`, AdamW for the others (Jordan 2024; arXiv:2502.16982).

    m <- momentum * m + g;  u = g + momentum * m (nesterov) or m;  p <- p - lr * (0.2 * sqrt(max(rows, columns)) *
    orthogonal(u) + weight_decay * p), where orthogonal(u) replaces the singular values of u by about 1. Works on whole
    matrices (a weight of three dimensions is a stack of them), so it cannot step ZeRO's flat partitions.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        momentum: float,
        nesterov: bool,
    ):
        settings = {"lr": lr, "betas": betas, "eps": eps, "momentum": momentum, "nesterov": nesterov}
        super().__init__(groups, {**settings, "weight_decay": 0.0, "muon": False})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            parameters, gradients = _moving(group)
            if parameters and group["muon"]:
                self._matrices(group, parameters, gradients)
            elif parameters:
                self._others(group, parameters, gradients)

    def _matrices(self, group: dict[str, Any], parameters: list[Any], gradients: list[Any]) -> None:
        (momenta,) = _states(self, parameters, "momentum_buffer")
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients)
        updates = momenta
        if group["nesterov"]:
            updates = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
        lr = group["lr"]
        torch._foreach_mul_(parameters, 1.0 - lr * group["weight_decay"])
        for places in _alike(updates):
            directions = orthogonal(torch.stack([updates[place] for place in places]))
            for place, direction in zip(places, directions, strict=True):
                size = ADAMW_SIZE * math.sqrt(max(direction.shape[-2:]))
                parameters[place].add_(direction.to(parameters[place].dtype), alpha=-lr * size)

    def _others(self, group: dict[str, Any], parameters: list[Any], gradients: list[Any]) -> None:
        first, second = _states(self, parameters, "exp_avg", "exp_avg_sq")
        for parameter in parameters:
            state = self.state[parameter]
            state.setdefault("step", torch.zeros((), dtype=torch.float32, device=parameter.device))
        adamw(
            parameters,
            gradients,
            first,
            second,
            [],
            [self.state[parameter]["step"] for parameter in parameters],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonal(matrices: Any) -> Any:
    """Matrices with the singular vectors of `matrices` (..., rows, columns) and singular values of about 1.

    In bfloat16 where the device multiplies it fast, else in float32; the result has that type.
    """
    given = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    upright = given.shape[-2] > given.shape[-1]
    found = given.mT if upright else given
    found = found.reshape(-1, *found.shape[-2:])
    found = found / (found.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # the largest singular value is at most 1
    a, b, c = QUINTIC
    for _ in range(ROUNDS):
        square = found @ found.mT
        inner = torch.baddbmm(square, square, square, beta=b, alpha=c)  # b * square + c * square @ square
        found = torch.baddbmm(found, inner, found, beta=a)
    return (found.mT if upright else found).reshape(matrices.shape)


def _moving(group: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    return parameters, [parameter.grad for parameter in parameters]


def _states(optimizer: Any, parameters: list[Any], *names: str) -> list[list[Any]]:
    """The state tensors of these names of each parameter, zeros at first."""
    for parameter in parameters:
        state = optimizer.state[parameter]
        for name in names:
            if name not in state:
                state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return [[optimizer.state[parameter][name] for parameter in parameters] for name in names]


def _alike(tensors: Iterable[Any]) -> Iterator[list[int]]:
    """The places of tensors of one shape, at most STACKED elements (or one tensor) at a time."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    sizes: dict[tuple[int, ...], int] = {}
    for place, tensor in enumerate(tensors):
        shape = tuple(tensor.shape)
        by_shape.setdefault(shape, []).append(place)
        sizes[shape] = tensor.numel()
    for shape, places in by_shape.items():
        at_once = max(1, STACKED // max(1, sizes[shape]))
        yield from (places[first : first + at_once] for first in range(0, len(places), at_once))
