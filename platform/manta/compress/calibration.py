"""The rows that quantisation looks at: chosen by seed from the shards' training split, never tokenised again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manta.data.sample import sample_rows
from manta.data.shards import load_index
from manta.errors import InputError
from manta.storage import Folder

if TYPE_CHECKING:
    import numpy as np

    from manta.sections.compress import Calibration

SPLIT = "train"
# Rows of one forward pass: enough to use the CPU's vector units, few enough to keep activations small.
BATCH = 4


def check(settings: Calibration, shards: str, positions: int | None) -> None:
    """Raise InputError if the shards cannot give the rows asked for, or the model has fewer `positions`."""
    index = load_index(shards)
    if settings.samples > index.rows(SPLIT):
        raise InputError(
            f"compress.calibration.samples = {settings.samples}: {shards} has {index.rows(SPLIT)} training rows: "
            f"set compress.calibration.samples={index.rows(SPLIT)} or prepare more text"
        )
    if settings.seq_len > index.seq_len:
        raise InputError(
            f"compress.calibration.seq_len = {settings.seq_len}: the rows of {shards} have {index.seq_len} tokens: "
            f"set compress.calibration.seq_len={index.seq_len}"
        )
    if positions is not None and settings.seq_len > positions:
        raise InputError(
            f"compress.calibration.seq_len = {settings.seq_len}: the model takes {positions} tokens: "
            f"set compress.calibration.seq_len={positions}"
        )


def rows(settings: Calibration, shards: str, seed: int) -> np.ndarray:
    """The calibration rows: (samples, seq_len) int32, each the beginning of a training row."""
    return sample_rows(Folder(shards), SPLIT, settings.samples, seed)[:, : settings.seq_len]


def loader(sample: np.ndarray) -> Any:
    """Batches {"input_ids": (batch, seq) int64} of the sample as a torch DataLoader, in order."""
    import torch

    tokens = torch.from_numpy(sample).long()
    batches = [{"input_ids": part} for part in tokens.split(BATCH)]
    return torch.utils.data.DataLoader(batches, batch_size=None)
