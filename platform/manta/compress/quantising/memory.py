"""Memory that is no longer wanted goes back to the system. Weights are read through a map of their file, which keeps every page
that was touched until the last tensor of the file is gone: a model would stay in memory beside what it became."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path

import torch


def release(tensor: torch.Tensor) -> None:
    """Give the pages of a contiguous tensor that nobody will read again back to the system, if a file lies behind them.

    Pages that it shares with its neighbours stay. Read again, the tensor would hold what the file says.
    """
    first = tensor.data_ptr()
    start = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (first + tensor.numel() * tensor.element_size()) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > start and _of_a_file(start, end):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def _of_a_file(start: int, end: int) -> bool:
    """Whether these addresses lie in one map of a file."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        words = line.split()
        low, high = (int(word, 16) for word in words[0].split("-"))
        if low <= start and end <= high:
            return words[4] != "0"  # the inode
    return False


def trim() -> None:
    """Give the pages of freed tensors back to the system, where the C library can (glibc).

    Small tensors that live on lie between large ones that do not, so that freed memory would grow from block to block.
    """
    function = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if function is not None:
        function(0)
