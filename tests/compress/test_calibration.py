"""Calibration rows: chosen by seed, cut, batched; and what cannot be calibrated on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manta.compress import calibration
from manta.data.shards import Index, save_index, write_shard
from manta.errors import InputError
from manta.sections.compress import Calibration
from manta.storage import Folder


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """12 training rows of 8 tokens; token = 100 * row + position."""
    folder = Folder(tmp_path / "shards")
    rows = (100 * np.arange(12)[:, None] + np.arange(8)[None, :]).astype(np.int32)
    save_index(
        folder, Index(8, 2000, 0, None, None, {"train": (write_shard(folder, "train/0.parquet", {"input_ids": rows}),)})
    )
    return folder.url


def settings(samples: int, seq_len: int) -> Calibration:
    return Calibration(shards="shards", samples=samples, seq_len=seq_len)


def test_rows_are_beginnings_of_different_training_rows(shards: str) -> None:
    rows = calibration.rows(settings(10, 5), shards, seed=1)
    assert rows.shape == (10, 5)
    assert (rows % 100 == np.arange(5)).all()
    assert len(set((rows[:, 0] // 100).tolist())) == 10


def test_the_seed_decides(shards: str) -> None:
    first = calibration.rows(settings(10, 5), shards, seed=1)
    assert (first == calibration.rows(settings(10, 5), shards, seed=1)).all()
    assert (first != calibration.rows(settings(10, 5), shards, seed=2)).any()


def test_batches_hold_the_rows_in_order(shards: str) -> None:
    rows = calibration.rows(settings(10, 8), shards, seed=1)
    batches = [batch["input_ids"] for batch in calibration.loader(rows)]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert (np.concatenate([batch.numpy() for batch in batches]) == rows).all()


@pytest.mark.parametrize(
    ("samples", "seq_len", "positions", "remedy"),
    [
        (13, 8, None, r"set compress\.calibration\.samples=12"),
        (12, 9, None, r"set compress\.calibration\.seq_len=8"),
        (12, 8, 4, r"set compress\.calibration\.seq_len=4"),
    ],
)
def test_rows_that_do_not_exist_are_refused(
    shards: str, samples: int, seq_len: int, positions: int | None, remedy: str
) -> None:
    calibration.check(settings(12, 8), shards, 8)
    with pytest.raises(InputError, match=remedy):
        calibration.check(settings(samples, seq_len), shards, positions)
