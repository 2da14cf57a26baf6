"""Kernels of torch's own operators on CPUs, where another one that torch brings along, or a simple one, is quicker.

They take the place of torch's for a whole process, below autograd: whoever multiplies or drops out gets them, forward and
backward, and no model knows. Training's workers have them, and their teachers. What judges a model, and what the benchmark
compares with, has torch's own.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from manta import hardware

if TYPE_CHECKING:
    import torch

LARGE = 2**20  # multiplications of a product from which on another kernel is worth the way through Python
BITS = 16  # of randomness for each entry of a mask: a probability is met to 2**-17


@functools.cache
def keep() -> Any:
    """`hasten`, for as long as this process lives."""
    return hasten()


def hasten() -> Any:
    """Put the kernels in place. Returns what holds them there: torch's own are back once that is gone.

    On Intel's processors torch's own, which are Intel's, are as quick, and stay.
    """
    import torch

    library = torch.library.Library("aten", "IMPL")
    found: dict[str, tuple[Callable[..., Any], bool]] = {"bernoulli_.float": (bernoulli_, False)}
    if torch.backends.mkldnn.is_available():
        found |= {"mm": (_mm(), True), "addmm": (_addmm(), True)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)  # that they are replaced
        for name, (kernel, with_keys) in ({} if is_intel() else found).items():
            library.impl(name, kernel, "CPU", with_keyset=with_keys, allow_override=True)
    return library


def is_intel() -> bool:
    """Whether this machine's processor is one for which MKL was written, as far as can be told."""
    told = hardware.processor()
    return not told or "GenuineIntel" in told


# --- products of matrices --------------------------------------------------------------------------------------------


def _mm() -> Callable[..., torch.Tensor]:
    """float32 (m, k) x (k, n) by oneDNN.

    Torch has MKL multiply float32, which reaches half of what an AMD processor can do: 100 against 210 GFLOPS on a core
    of an EPYC, whatever the shapes. They are four fifths of a training step.
    """
    import torch

    theirs = torch.library.get_kernel("aten::mm", "CPU")
    product = torch.ops.mkldnn._linear_pointwise

    def mm(keys: Any, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if not _pays(one, other):
            return theirs.call_boxed(keys, one, other)
        return product(_laid_out(one), _laid_out(other).t(), None, "none", [], "")

    return mm


def _addmm() -> Callable[..., torch.Tensor]:
    """The same with a vector (n,) added to each row, as linear layers have it."""
    import torch

    theirs = torch.library.get_kernel("aten::addmm", "CPU")
    product = torch.ops.mkldnn._linear_pointwise

    def addmm(
        keys: Any, added: torch.Tensor, one: torch.Tensor, other: torch.Tensor, *, beta: float = 1, alpha: float = 1
    ) -> torch.Tensor:
        a_bias = added.dim() == 1 and added.shape[0] == other.shape[1] and added.dtype == one.dtype
        if not a_bias or beta != 1 or alpha != 1 or not _pays(one, other):
            return theirs.call_boxed(keys, added, one, other, beta=beta, alpha=alpha)
        return product(_laid_out(one), _laid_out(other).t(), added, "none", [], "")

    return addmm


def _pays(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether a product is one that oneDNN computes, and large enough. What is not one at all is torch's to refuse."""
    import torch

    return (
        one.dtype == other.dtype == torch.float32
        and one.dim() == other.dim() == 2
        and one.shape[1] == other.shape[0]
        and one.shape[0] * one.shape[1] * other.shape[1] >= LARGE
    )


def _laid_out(matrix: torch.Tensor) -> torch.Tensor:
    """A matrix whose rows or columns follow one another in memory: of a slice, oneDNN's products take a hundred times as long."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


# --- masks of dropout ------------------------------------------------------------------------------------------------


def bernoulli_(entries: torch.Tensor, p: float = 0.5, *, generator: torch.Generator | None = None) -> torch.Tensor:
    """Fill a tensor of any shape and dtype with ones, each with probability `p`, and zeros. Raises ValueError for no probability.

    Torch draws one entry after the other in a single thread: of a step of a small encoder on two cores that is an eighth.
    This takes 64 bits at a time of SFC64 (PractRand, Doty-Humphrey), whose seed is drawn from torch's generator: the masks
    follow torch.manual_seed, are drawn again alike when activations are recomputed, and are the same on any number of
    threads.
    """
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
