"""Global batches of rows of like length, as a pure function of (seed, epoch, step): little padding, nothing stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manta.data import order
from manta.data.shards import MULTIPLE

TOGETHER = 50  # global batches that are sorted by length together: more pad less, and batches are less random
PARTS = 4  # an epoch is cut into at least so many stretches, so that which rows meet differs from epoch to epoch
# precision -> what widths are multiples of. Units for short floats want 8; in fp32 a width costs what it has of tokens.
GRAIN = {"fp32": 1, "bf16": MULTIPLE}
FEW = 4  # widths where each of them is compiled: each is half the next
_BATCHES = 0x62617463  # makes the order of batches another one than that of rows


@dataclass(frozen=True)
class Trim:
    """How the rows of a step lose the filling that all of them share. Rows of like length share more of it."""

    columns: tuple[str, ...]  # those that are filled up
    widths: tuple[int, ...]  # what rows may be cut to, ascending
    grouped: bool  # whether rows of like length make up a batch


def trim_of(columns: tuple[str, ...], seq_len: int, grouped: bool, compiled: bool, precision: str) -> Trim | None:
    """How a feed of such rows trims; None where no column is filled up."""
    return Trim(columns, widths(seq_len, compiled, GRAIN[precision]), grouped) if columns else None


def rows_of(samples: np.ndarray, lengths: np.ndarray, batch: int, seed: int) -> np.ndarray:
    """The row (int64) of each global sample index, of rows that have these `lengths`, int (rows,).

    An epoch's permutation (`order`) is cut into stretches of up to TOGETHER global batches, each stretch sorted by
    length and cut into global batches, and the order of the epoch's batches permuted. Steps that hold the end of one
    epoch and the beginning of the next are left as they are. So each epoch holds each row once, step s is the samples
    from s x batch on whatever the workers, and nothing but the stretches that are asked for is worked out.
    """
    samples, count = np.asarray(samples, dtype=np.int64), len(lengths)
    rows, epochs = order.rows_of(samples, count, seed), samples // count
    for epoch in np.unique(epochs).tolist():
        begin = -(-epoch * count // batch)  # the first step that is wholly of this epoch
        whole = (epoch + 1) * count // batch - begin  # how many there are
        steps = samples // batch - begin
        mine = np.flatnonzero((epochs == epoch) & (steps >= 0) & (steps < whole))
        if not len(mine):
            continue
        batches = order.permute(steps[mine], whole, seed ^ _BATCHES, epoch)
        cuts = _cuts(whole)
        stretches = np.searchsorted(cuts, batches, side="right") - 1
        head = begin * batch - epoch * count  # places of the permutation before the first whole step
        for stretch in np.unique(stretches).tolist():
            first, last = cuts[stretch] * batch, cuts[stretch + 1] * batch
            found = order.permute(np.arange(head + first, head + last), count, seed, epoch)
            by_length = found[np.argsort(lengths[found], kind="stable")]
            here = stretches == stretch
            rows[mine[here]] = by_length[batches[here] * batch - first + samples[mine[here]] % batch]
    return rows


def _cuts(batches: int) -> np.ndarray:
    """Where each stretch of an epoch's global batches begins, and the end: int64, stretches of like size."""
    stretches = min(batches, max(PARTS, -(-batches // TOGETHER)))
    return np.arange(stretches + 1, dtype=np.int64) * batches // stretches


def widths(seq_len: int, compiled: bool, grain: int = MULTIPLE) -> tuple[int, ...]:
    """What the rows of a step may be cut to, ascending: multiples of `grain`, and `seq_len`. With `compiled` only a few."""
    if not compiled:
        return (*range(grain, seq_len, grain), seq_len)
    some = {-(-seq_len // (MULTIPLE << halved)) * MULTIPLE for halved in range(1, FEW)}
    return (*sorted(width for width in some if width < seq_len), seq_len)


def width_of(lengths: np.ndarray, allowed: tuple[int, ...]) -> np.ndarray:
    """The least of the allowed widths (ascending) that holds each length: int64 of the same shape."""
    return np.asarray(allowed, dtype=np.int64)[np.searchsorted(allowed, lengths, side="left")]
