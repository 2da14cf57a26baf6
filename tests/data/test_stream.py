"""What the stream reads, without Ray; that Ray delivers it in order is part of tests/train/test_training.py."""

from __future__ import annotations

import numpy as np
import pytest

from manta.data.order import rows_of
from manta.data.shards import Index, Shard, write_shard
from manta.data.stream import Ahead, Feed, read_steps, take
from manta.storage import Folder

SEQ, SIZES = 8, (300, 1, 150)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Index, np.ndarray]:
    """Three files, the first of several row groups; the token ids of a row spell its number."""
    from manta.data.shards import save_index

    folder = Folder(tmp_path_factory.mktemp("shards"))
    rows = (np.arange(sum(SIZES))[:, None] * SEQ + np.arange(SEQ)).astype(np.int32)
    files: list[Shard] = []
    for number, start in enumerate(np.cumsum([0, *SIZES[:-1]])):
        files.append(
            write_shard(folder, f"train/{number:05}.parquet", {"input_ids": rows[start : start + SIZES[number]]})
        )
    index = Index(SEQ, int(rows.max()) + 1, 0, None, None, {"train": tuple(files), "validation": ()})
    save_index(folder, index)
    return folder.url, index, rows


def test_rows_come_in_the_order_asked_for(shards: tuple[str, Index, np.ndarray]) -> None:
    folder, index, rows = shards
    wanted = np.random.default_rng(0).integers(0, len(rows), 500)
    found = take(folder, index, "train", wanted, ("input_ids",))["input_ids"]
    assert found.dtype == np.int32
    assert np.array_equal(found, rows[wanted])


def test_first_and_last_rows_of_each_file(shards: tuple[str, Index, np.ndarray]) -> None:
    folder, index, rows = shards
    wanted = np.array([0, 299, 300, 301, 450])
    assert np.array_equal(take(folder, index, "train", wanted, ("input_ids",))["input_ids"], rows[wanted])


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_worker_count_trains_on_the_same_batches(shards: tuple[str, Index, np.ndarray], workers: int) -> None:
    folder, _, rows = shards
    feed = Feed(folder, ("input_ids",), batch=6, steps=100, seed=4)
    steps = np.arange(70, 80)  # 451 rows last for 75 steps: the epoch ends in between
    parts = [read_steps(feed, steps, rank, workers) for rank in range(workers)]
    assert np.array_equal(parts[0]["step"], steps)
    together = np.concatenate([part["input_ids"] for part in parts], axis=1)  # (steps, batch, seq)
    expected = rows[rows_of(np.arange(420, 480), len(rows), seed=4)].reshape(10, 6, SEQ)
    assert np.array_equal(together, expected)


def test_ahead_keeps_order_and_ends() -> None:
    assert list(Ahead(iter(range(50)), depth=2)) == list(range(50))


def test_ahead_raises_what_the_source_raised() -> None:
    def source():
        yield 1
        raise OSError("the disk is gone")

    ahead = Ahead(source())
    assert next(ahead) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)
