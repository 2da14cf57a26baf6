"""GPTQ (Frantar et al., arXiv:2210.17323): what rounding one column loses is made up for in those that follow."""

from __future__ import annotations

import torch

from manta.compress.quantising.grids import Grid, rounded

BLOCK = 96  # columns between two updates of all that follow
DAMPENING = 0.01  # of the mean of the Hessian's diagonal: keeps rarely used directions from being moved without bound


def gptq(weight: torch.Tensor, hessian: torch.Tensor, scale: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Codes (out, in) float32 for a weight (out, in) whose inputs X have the Hessian X^T X (in, in), float32.

    Scales (out, groups) are given, so columns may go in any order: those with the largest inputs first, while there is most
    left that can make up for them. Columns that no input reaches are rounded to the nearest.
    """
    columns = weight.shape[1]
    order = hessian.diagonal().argsort(descending=True, stable=True)
    upper = _inverse_factor(hessian[order][:, order])
    rest = weight.t()[order].contiguous()  # (in, out): a column is one run of memory
    steps = scale.t()[order // (columns // scale.shape[1])]  # (in, out)
    codes = torch.empty_like(rest)
    for first in range(0, columns, BLOCK):
        last = min(first + BLOCK, columns)
        block, local = rest[first:last], upper[first:last, first:last]
        errors = torch.empty_like(block)
        pivots = local.diagonal().tolist()
        for i, pivot in enumerate(pivots):
            step = steps[first + i]
            code = rounded(block[i] / step, grid)
            codes[first + i] = code
            torch.addcmul(block[i], code, step, value=-1, out=errors[i]).div_(pivot)
            if i + 1 < len(pivots):
                block[i + 1 :].addr_(local[i, i + 1 :], errors[i], alpha=-1)
        rest[last:].addmm_(upper[first:last, last:].t(), errors, alpha=-1)
    found = torch.empty_like(codes)
    found[order] = codes
    return found.t().contiguous()


def _inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """The upper triangle U with U^T U = (H + dampening)^-1, without forming the inverse. Changes `hessian`.

    H = R R^T with R upper is the Cholesky factorisation of H turned by 180 degrees, and U = R^-1.
    """
    diagonal = hessian.diagonal()
    hessian.diagonal().add_(DAMPENING * diagonal.mean().clamp(min=1e-12))
    factor = torch.linalg.cholesky(hessian.flip(0, 1)).flip(0, 1)
    return torch.linalg.solve_triangular(factor, torch.eye(len(factor)), upper=True)
