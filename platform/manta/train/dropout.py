"""A quicker source of dropout's ones and zeros on CPUs."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BITS = 16  # of randomness for each entry: a probability is met to 2**-17


@functools.cache
def keep() -> Any:
    """`hasten`, for as long as this process lives."""
    return hasten()


def hasten() -> Any:
    """Replace torch's kernel of `bernoulli_` for CPUs, from which every dropout takes its mask, in this process.

    Returns what holds the kernel in its place: torch's own is back once that is gone.

    Torch draws one entry after the other in a single thread (but for Intel's processors, where MKL does it): of a step of
    a small encoder on two cores that is an eighth. This one takes 64 bits at a time of SFC64 (PractRand, Doty-Humphrey),
    whose seed is drawn from torch's generator: the masks follow torch.manual_seed, are drawn again alike when activations
    are recomputed, and are the same on any number of threads.
    """
    import torch

    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)  # that it is replaced
        library.impl("bernoulli_.float", bernoulli_, "CPU", allow_override=True)
    return library


def bernoulli_(entries: torch.Tensor, p: float = 0.5, *, generator: torch.Generator | None = None) -> torch.Tensor:
    """Fill a tensor of any shape and dtype with ones, each with probability `p`, and zeros. Raises ValueError for no probability."""
    import numpy as np
    import torch

    if not 0.0 <= p <= 1.0:
        raise ValueError(f"p = {p}: a probability lies between 0 and 1")
    ones = round(p * 2**BITS)  # of the 2**BITS numbers that an entry may draw
    if ones == 2**BITS:
        return entries.fill_(1)
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    drawn = np.random.SFC64(seed).random_raw(-(-entries.numel() * BITS // 64)).view(np.int16)[: entries.numel()]
    return entries.copy_((torch.from_numpy(drawn) < ones - 2 ** (BITS - 1)).view(entries.shape))
