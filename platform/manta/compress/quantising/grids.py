"""Grids of numbers that quantised weights lie on: which scales they get, how they are rounded, what they are worth again.

Matrices are as in torch.nn.Linear, (out, in). The input columns of a row are cut into groups of `Grid.group`, each with a
scale of its own: (out, groups). A code is an integer of `bits` bits, or an fp8 number; code x scale is the weight.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

FP8_MAX = 448.0  # of float8_e4m3fn


class Grid(NamedTuple):
    """`group`: input columns that share a scale; None: all of a row. `scale_dtype`: what the engines keep scales in, so
    that weights are fitted to the scales that will be used."""

    bits: int
    group: int | None = None
    kind: str = "int"  # or float: fp8, e4m3
    scale_dtype: str = "float32"

    @property
    def low(self) -> float:
        return -FP8_MAX if self.kind == "float" else -(2.0 ** (self.bits - 1))

    @property
    def high(self) -> float:
        return FP8_MAX if self.kind == "float" else 2.0 ** (self.bits - 1) - 1

    def groups(self, columns: int) -> int:
        """Scales of a row of so many columns."""
        return 1 if self.group is None else columns // self.group

    def bytes_of(self, out: int, columns: int) -> float:
        """What a matrix takes in a file."""
        return out * (columns * self.bits / 8 + self.groups(columns) * (2 if self.scale_dtype == "bfloat16" else 4))


def rounded(ratio: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The nearest code of weight / scale, as float32. Changes `ratio`."""
    if grid.kind == "float":
        return ratio.clamp_(grid.low, grid.high).to(torch.float8_e4m3fn).float()
    return ratio.round_().clamp_(grid.low, grid.high)


def spread(scale: torch.Tensor, columns: int) -> torch.Tensor:
    """Scales of groups -> of columns: (out, groups) -> (out, columns)."""
    return scale.repeat_interleave(columns // scale.shape[1], dim=1)


def nearest(weight: torch.Tensor, scale: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Each weight to the nearest point of its group's grid: codes (out, in) as float32."""
    return rounded(weight / spread(scale, weight.shape[1]), grid)


def values(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The weights that codes stand for: (out, in) float32."""
    return codes.float() * spread(scale.float(), codes.shape[1])


def stored(scale: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The scale as the engines will see it, in float32. A group of zeros gets 1."""
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    return scale.to(getattr(torch, grid.scale_dtype)).float()


# What a group's outermost weight is cut to, as a share: cutting it makes the steps of all others finer.
CUTS = {4: (1.0, 0.94, 0.88, 0.82, 0.76, 0.7), 8: (1.0, 0.97, 0.94)}


def fit(weight: torch.Tensor, grid: Grid, importance: torch.Tensor | None = None) -> torch.Tensor:
    """Scales (out, groups) float32: for each group that of a few cuts which loses least.

    What is lost is the sum of squared errors weighted by `importance` (in,), the mean square of each input: the Hessian's
    diagonal. Integer grids have one more step below zero than above; the scale's sign, which may be negative, puts it
    where the outermost weight is. fp8 has no cuts: its steps grow with the value.
    """
    out, columns = weight.shape
    parts = weight.reshape(out, grid.groups(columns), -1)  # (out, groups, columns of a group)
    low, high = parts.amin(-1), parts.amax(-1)
    widest = torch.maximum(-low, high)
    if grid.kind == "float":
        return stored(widest / grid.high, grid)
    weights = None if importance is None else importance.reshape(1, parts.shape[1], -1)
    far = torch.where(-low >= high, widest, -widest) / -grid.low  # the outermost weight lies on the lowest code
    starts = [far, -widest.copysign(far) / grid.high] if grid.bits < 8 else [widest / grid.high]
    best, least = torch.ones_like(widest), torch.full_like(widest, torch.inf)
    for start in starts:
        for cut in CUTS[grid.bits]:
            scale = stored(start * cut, grid)[..., None]
            error = rounded(parts / scale, grid).mul_(scale).sub_(parts).square_()
            lost = error.sum(-1) if weights is None else error.mul_(weights).sum(-1)
            better = lost < least
            best, least = torch.where(better, scale[..., 0], best), torch.where(better, lost, least)
    return best


def refit(weight: torch.Tensor, codes: torch.Tensor, hessian: torch.Tensor, scale: torch.Tensor, grid: Grid) -> Any:
    """The scales that, with these codes, lose least of the layer's output: of each row the least squares of
    (w - sum_g s_g q_g) H (w - sum_g s_g q_g)^T over its groups' scales s. A scale of an empty group stays as it is.

    `hessian` is (in, in), X^T X of the layer's inputs. Returns scales (out, groups) float32.
    """
    out, columns = codes.shape
    count = scale.shape[1]
    width = columns // count
    reached = codes @ hessian if count == 1 else None
    normal = torch.empty(out, count, count)
    for group in range(count):
        own = slice(group * width, (group + 1) * width)
        part = reached if reached is not None else codes[:, own] @ hessian[own]  # (out, in)
        normal[:, group] = (part * codes).reshape(out, count, width).sum(-1)
    aim = ((weight @ hessian) * codes).reshape(out, count, width).sum(-1)  # (out, groups)
    # A little of the scale as it is: groups that the inputs hardly reach would have any.
    hold = 1e-3 * normal.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) + 1e-12
    normal += torch.diag_embed(hold.expand(out, count))
    found = torch.linalg.solve(normal, aim + hold * scale)
    kept = torch.isfinite(found) & (found != 0)
    return stored(torch.where(kept, found, scale), grid)
