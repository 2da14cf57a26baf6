"""How a training process on a CPU asks the system for memory: once, not in every step."""

from __future__ import annotations

import ctypes

# mallopt's names in malloc.h, which no module of Python's has.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 2**30
KEPT = 2**31 - 1  # mallopt takes an int

# Ray Train calls the loop in a thread, and glibc gives each thread an arena of its own, made of heaps of 64 MiB that go back
# to the system when they are empty: what `keep` asks for holds in the first arena only. With one arena for all threads it
# holds in each of them. Read when a process starts, so it is the environment of whoever is to train.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}


def keep() -> bool:
    """Let freed memory be used again instead of going back to the system. Returns whether the C library can.

    As glibc is set, a tensor over 32 MiB is a mapping of its own: fresh pages, each a fault and a wipe, and given back
    when it is freed. The logits of one micro-batch are such a tensor, several times in every step: it is a fifth of the
    time of a small model's step. What is kept is what the largest moment of a step needs, so the peak is the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))
