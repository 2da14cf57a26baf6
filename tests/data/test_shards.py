"""Shards and their index: what is written is what everyone reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from manta.data import shards
from manta.errors import InputError
from manta.storage import Folder

ROWS = np.arange(300 * 16, dtype=np.int32).reshape(300, 16)


def test_pyarrow_duckdb_and_polars_read_the_rows(tmp_path: Path) -> None:
    shard = shards.write_shard(Folder(tmp_path), "train/00000.parquet", {"input_ids": ROWS})
    path = tmp_path / shard.path
    assert (shard.rows, shard.tokens, shard.bytes) == (300, 4800, path.stat().st_size)
    assert shard.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    table = pq.read_table(path)
    assert str(table.schema.field("input_ids").type) == "fixed_size_list<element: int32>[16]"
    assert pq.ParquetFile(path).num_row_groups == -(-300 // shards.ROWS_PER_GROUP)
    assert table["input_ids"].to_pylist() == ROWS.tolist()
    assert [row for (row,) in duckdb.sql(f"select input_ids from '{path}'").fetchall()] == ROWS.tolist()
    frame = pl.read_parquet(path)
    assert frame.schema == {"input_ids": pl.Array(pl.Int32, 16)}
    assert (frame["input_ids"].to_numpy() == ROWS).all()
    assert (shards.read_rows(Folder(tmp_path), shard.path) == ROWS).all()


def test_the_same_rows_give_the_same_bytes_and_leave_nothing_else(tmp_path: Path) -> None:
    a, b = (shards.write_shard(Folder(tmp_path), f"{name}.parquet", {"input_ids": ROWS}) for name in "ab")
    assert (a.sha256, a.bytes) == (b.sha256, b.bytes)
    assert Folder(tmp_path).files() == ["a.parquet", "b.parquet"]


def test_another_filesystem_holds_the_same(tmp_path: Path) -> None:
    remote = Folder("memory://shards-test")
    shard = shards.write_shard(remote, "train/00000.parquet", {"input_ids": ROWS})
    assert (shards.read_rows(remote, shard.path) == ROWS).all()
    assert shard == shards.write_shard(Folder(tmp_path), "train/00000.parquet", {"input_ids": ROWS})


def test_the_index_reads_back(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    split = tuple(shards.write_shard(folder, f"train/{i}.parquet", {"input_ids": ROWS[i:]}) for i in range(2))
    index = shards.Index(16, 512, 0, None, 2, {"train": split, "validation": ()})
    shards.save_index(folder, index)
    assert shards.load_index(folder) == shards.load_index(str(tmp_path)) == index
    assert (index.rows("train"), index.tokens("train"), index.rows("validation")) == (599, 599 * 16, 0)


def test_a_missing_or_damaged_index_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="manta prepare"):
        shards.load_index(str(tmp_path))
    for text in ("{", "[]", '{"splits": {}, "unknown": 1}', '{"splits": {"train": [{"path": "x"}]}}'):
        (tmp_path / "shards.json").write_text(text)
        with pytest.raises(InputError, match="is damaged"):
            shards.load_index(str(tmp_path))
