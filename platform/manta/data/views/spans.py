"""The view of T5's denoising: spans hidden behind sentinels, as the shards' layout says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manta.data.layouts import denoising
from manta.data.shards import Noise


@dataclass(frozen=True)
class Corrupted:
    """Hides spans of rows: see `layouts.denoising.corrupt`.

    In: `input_ids` int32 (n, noise.tokens). Out: `input_ids` (n, noise.input_len) and `labels` (n, noise.target_len).
    """

    noise: Noise
    columns_in: tuple[str, ...] = ("input_ids",)
    columns_out: tuple[str, ...] = denoising.COLUMNS

    def __call__(self, columns: dict[str, np.ndarray], samples: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        return denoising.corrupt(columns["input_ids"], samples, seed, self.noise)
