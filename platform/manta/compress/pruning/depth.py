"""Which blocks a model can do without: those that change least what passes through, or that the loss misses least."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from manta.compress.pruning import walking
from manta.compress.pruning.cutting import Loaded, blocks

if TYPE_CHECKING:
    import numpy as np

Report = Callable[[int, int], None]  # called with (steps done, steps)


def influence(loaded: Loaded, rows: np.ndarray, count: int, report: Report) -> list[int]:
    """The blocks with the least influence: 1 - mean over tokens of the cosine of a block's input and output (ShortGPT,
    arXiv:2403.03853, equation 1)."""
    scores = [1.0 - cosines[0] for cosines in _cosines(loaded, rows, 1, report)]
    return sorted(sorted(range(len(scores)), key=lambda number: (scores[number], number))[:count])


def angle(loaded: Loaded, rows: np.ndarray, count: int, report: Report) -> list[int]:
    """The run of `count` blocks whose input and output differ by the smallest angle, arccos(cosine) / pi, meant over
    tokens (arXiv:2403.17887, equation 6, there over each row's last token)."""
    scores = [angles[1] for angles in _cosines(loaded, rows, count, report)]
    first = min(range(len(scores)), key=lambda number: (scores[number], number))
    return list(range(first, first + count))


def loss(loaded: Loaded, rows: np.ndarray, count: int, report: Report) -> list[int]:
    """One block after the other: each time that whose leaving out raises the loss least, with the others gone already
    (SLEB, arXiv:2402.09025, algorithm 1). Runs the rows through the model about count x blocks times."""
    every = list(blocks(loaded))
    total = sum(len(every) - gone for gone in range(count))
    removed: list[int] = []
    done = 0
    for _ in range(count):
        scores = {}
        for number in sorted(set(range(len(every))) - set(removed)):
            with _without(loaded, {*removed, number}):
                scores[number] = _loss(loaded, rows)
            done += 1
            report(done, total)
        removed.append(min(scores, key=lambda number: (scores[number], number)))
    return sorted(removed)


DEPTHS: dict[str, Callable[[Loaded, np.ndarray, int, Report], list[int]]] = {
    "influence": influence,
    "angle": angle,
    "loss": loss,
}


def _cosines(loaded: Loaded, rows: np.ndarray, length: int, report: Report) -> list[tuple[float, float]]:
    """For each run of `length` blocks the means over tokens of the cosine of its input and output, and of its angle / pi."""
    import torch

    every = blocks(loaded)
    passed: list[Any] = []  # the first block's input, then each one's output, of one batch

    def see(given: Any, result: Any) -> None:
        if not passed:
            passed.append(given)
        passed.append(result)

    starts = range(len(every) - length + 1)
    sums = [[0.0, 0.0] for _ in starts]
    tokens, batches = 0, math.ceil(len(rows) / walking.BATCH)
    with walking.hooked([(block, see) for block in every]):
        for number, _ in enumerate(walking.forward(loaded, rows), start=1):
            for start in starts:
                before, after = passed[start].double(), passed[start + length].double()
                cosine = torch.cosine_similarity(before, after, dim=-1).clamp(-1.0, 1.0)  # (batch, seq)
                sums[start][0] += float(cosine.sum())
                sums[start][1] += float(cosine.arccos().sum()) / math.pi
            tokens += passed[0][..., 0].numel()
            passed.clear()
            report(number, batches)
    return [(cosine / tokens, turned / tokens) for cosine, turned in sums]


class _without:
    """The model less some blocks, for as long as the block of code runs."""

    def __init__(self, loaded: Loaded, removed: set[int]):
        self.body, self.place = loaded.model.base_model, loaded.anatomy.blocks
        self.every = blocks(loaded)
        self.kept = [block for number, block in enumerate(self.every) if number not in removed]

    def __enter__(self) -> None:
        import torch

        self._put(torch.nn.ModuleList(self.kept))

    def __exit__(self, *_: object) -> None:
        self._put(self.every)

    def _put(self, modules: Any) -> None:
        parent, _, name = self.place.rpartition(".")
        setattr(self.body.get_submodule(parent), name, modules)


def _loss(loaded: Loaded, rows: np.ndarray) -> float:
    """The sum over the rows of the next tokens' negative log-likelihood, in nats."""
    import torch

    total = 0.0
    for tokens, result in zip(walking.batches(rows), walking.forward(loaded, rows), strict=True):
        logits = result.logits[:, :-1].transpose(1, 2)  # (batch, vocab, seq - 1)
        total += float(torch.nn.functional.cross_entropy(logits, tokens[:, 1:], reduction="sum"))
    return total
