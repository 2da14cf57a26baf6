"""Random bits as a pure function of (seed, sample, place): no generator whose state would have to be kept or skipped."""

from __future__ import annotations

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood, 2014), elementwise on uint64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def bits(seed: int, samples: np.ndarray, count: int, use: int = 0) -> np.ndarray:
    """`count` numbers for each global sample index: uint64 (samples, count). Another `use` gives independent ones."""
    with np.errstate(over="ignore"):
        base = mix(np.uint64(seed % 2**64) + GOLDEN * np.uint64(use + 1))
        stream = mix(base + GOLDEN * (np.asarray(samples).astype(np.uint64) + np.uint64(1)))  # (samples,)
        places = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
        return mix(stream[:, None] + places[None, :])
