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
    batches = [batch["input_ids"] for batch in calibration.batches(rows)]
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert (np.concatenate([batch.numpy() for batch in batches]) == rows).all()


def test_padding_behind_a_row_is_masked(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "rows")
    ids = np.arange(1, 25, dtype=np.int32).reshape(3, 8)
    columns = {"input_ids": ids, "length": np.array([3, 5, 2], dtype=np.int32)}
    shard = write_shard(folder, "train/0.parquet", columns)
    split = {"train": (shard,)}
    save_index(folder, Index(8, 30, 0, None, 0, split, columns=tuple(columns), padded=("input_ids",)))
    rows = calibration.rows(settings(3, 8), folder.url, seed=0)
    assert sorted((row >= 0).sum() for row in rows) == [2, 3, 5]
    [batch] = calibration.batches(rows)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, 5)  # cut to the longest
    for row, tokens, mask in zip(rows, batch["input_ids"].numpy(), batch["attention_mask"].numpy(), strict=True):
        assert tokens[mask == 1].tolist() == row[row >= 0].tolist()
        assert (tokens >= 0).all()


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


def test_samples_are_doubled_until_more_of_them_change_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of one kind are soon enough; where every row is of another kind, all are taken."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=128, **sizes)).save_pretrained(tmp_path)
    monkeypatch.setattr(calibration, "FIRST", 4)
    alike = np.tile(np.arange(16, dtype=np.int32), (32, 1))
    assert calibration.enough(tmp_path, alike) == 8
    different = np.repeat(np.arange(32, dtype=np.int32) * 4, 16).reshape(32, 16)
    assert calibration.enough(tmp_path, different) > 8
    assert calibration.enough(tmp_path, alike[:3]) == 3


def test_rows_that_end_early_are_strung_together_for_who_looks_at_every_place() -> None:
    early = np.array([[1, 2, 3], [4, -1, -1], [5, 6, -1], [7, 8, 9]], dtype=np.int32)
    assert calibration.dense(early).tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert calibration.dense(early[1:2]).tolist() == [[4]]
    assert calibration.dense(early[:1]) is not early
    assert calibration.dense(early[[0, 3]]).tolist() == [[1, 2, 3], [7, 8, 9]]
