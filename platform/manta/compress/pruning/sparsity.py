"""Single weights become zero, by rows of a layer: a study of what a model can spare, not a way to a faster one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from manta.compress.pruning import walking, width
from manta.compress.pruning.cutting import Loaded, blocks

if TYPE_CHECKING:
    import numpy as np

    from manta.sections.prune import Sparsity

DAMPING = 0.01  # of the mean of a Gram matrix's diagonal, added to the diagonal
COLUMNS = 128  # that SparseGPT decides about at a time
OF_FOUR = "2:4"
# What is said wherever sparsity is told: the file, the memory and the speed are those of the dense model.
NO_GAIN = "none: zeros are stored, loaded and multiplied like all weights; vLLM dropped its 2:4 kernels"

Report = Callable[[int, int], None]  # called with (blocks done, blocks)


def magnitude(weight: Any, gram: Any, share: float, pattern: str) -> Any:
    """The smallest weights go, of the whole layer or of each four in a row."""
    del gram
    import torch

    score = weight.abs()
    if pattern == OF_FOUR:
        return torch.where(_two_of_four(score), 0.0, weight)
    return torch.where(_lowest(score.reshape(1, -1), share).reshape(score.shape), 0.0, weight)


def wanda(weight: Any, gram: Any, share: float, pattern: str) -> Any:
    """Of each row those with the smallest |weight| x root mean square of its input (Wanda, arXiv:2306.11695, equation 1)."""
    import torch

    score = weight.abs() * gram.diagonal().sqrt()
    return torch.where(_two_of_four(score) if pattern == OF_FOUR else _lowest(score, share), 0.0, weight)


def sparsegpt(weight: Any, gram: Any, share: float, pattern: str) -> Any:
    """The weights whose loss moves what the layer gives least, the others of their row making up for it from left to right
    (SparseGPT, arXiv:2301.00774, algorithm 1, with 1% damping)."""
    import torch

    inverse = _inverse(gram)  # (columns, columns), upper triangle
    left = weight.double().clone()
    for first in range(0, weight.shape[1], COLUMNS):
        last = min(first + COLUMNS, weight.shape[1])
        piece, inner = left[:, first:last].clone(), inverse[first:last, first:last]
        scale = inner.diagonal()
        gone = torch.zeros_like(piece, dtype=torch.bool)
        if pattern != OF_FOUR:
            score = (piece / scale).square()
            gone = _lowest(score.reshape(1, -1), share).reshape(score.shape)
        errors = torch.zeros_like(piece)
        for column in range(last - first):
            if pattern == OF_FOUR and column % 4 == 0:
                four = slice(column, column + 4)
                gone[:, four] = _two_of_four((piece[:, four] / scale[four]).square())
            kept = torch.where(gone[:, column], 0.0, piece[:, column])
            error = (piece[:, column] - kept) / scale[column]
            piece[:, column:] -= error[:, None] * inner[column, column:]
            piece[:, column] = kept
            errors[:, column] = error
        left[:, first:last] = piece
        left[:, last:] -= errors @ inverse[first:last, last:]
    return left.float()


METHODS: dict[str, Callable[[Any, Any, float, str], Any]] = {
    "magnitude": magnitude,
    "wanda": wanda,
    "sparsegpt": sparsegpt,
}


def apply(loaded: Loaded, rows: np.ndarray | None, settings: Sparsity, report: Report) -> float:
    """Put zeros into the linear layers of the blocks, where the model stands. Returns their share of those layers."""
    counted = [0, 0]

    def visit(number: int, block: Any, run: Callable[[], Any]) -> None:
        layers = {name: block.get_submodule(name) for name in loaded.anatomy.block}
        grams = width.gram(layers, run) if settings.method != "magnitude" else {}
        for name, layer in layers.items():
            weight = layer.weight.data.T if loaded.anatomy.transposed else layer.weight.data  # (gives, reads)
            new = METHODS[settings.method](weight, grams.get(name), settings.share, settings.pattern)
            weight.copy_(new)
            counted[0] += int((new == 0).sum())
            counted[1] += new.numel()
        report(number + 1, loaded.sizes.layers)

    if rows is None:
        for number, block in enumerate(blocks(loaded)):
            visit(number, block, lambda: None)
    else:
        walking.walk(loaded, rows, visit)
    return counted[0] / counted[1]


def _lowest(score: Any, share: float) -> Any:
    """True for exactly the smallest `share` of each row, rounded; of equal ones the first."""
    import torch

    count = round(share * score.shape[1])
    order = torch.argsort(score, dim=1, stable=True)[:, :count]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, order, True)


def _two_of_four(score: Any) -> Any:
    """True for the two smallest of each four in a row."""
    fours = score.reshape(-1, 4)
    return _lowest(fours, 0.5).reshape(score.shape)


def _inverse(gram: Any) -> Any:
    """The upper triangular U with U'U the inverse of the damped Gram matrix, float64: its rows are those of SparseGPT."""
    import torch

    damped = gram.double().clone()
    mean = float(damped.diagonal().mean())
    damped.diagonal().add_(DAMPING * mean if mean else 1.0)
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
