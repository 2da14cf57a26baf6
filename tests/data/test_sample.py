"""Rows of a split by seed, and the check that their token ids fit a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from manta.data.sample import check_vocabulary, locate, sample_rows
from manta.data.shards import Index, Shard, save_index, write_shard
from manta.errors import InputError
from manta.storage import Folder

SEQ = 8


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A split of 10 rows in shards of 3, 3 and 4; row i is filled with i."""
    made = Folder(tmp_path / "shards")
    rows = np.repeat(np.arange(10, dtype=np.int32)[:, None], SEQ, axis=1)
    shards = tuple(
        write_shard(made, f"train/{n}.parquet", {"input_ids": part})
        for n, part in enumerate((rows[:3], rows[3:6], rows[6:]))
    )
    save_index(made, Index(SEQ, 100, 0, None, None, {"train": shards}))
    return made


def test_each_row_at_most_once_and_all_of_them_when_asked(folder: Folder) -> None:
    sample = sample_rows(folder, "train", 99, seed=5)
    assert sample.shape == (10, SEQ)
    assert sorted(sample[:, 0].tolist()) == list(range(10))
    assert (sample == sample[:, :1]).all()


def test_a_pure_function_of_the_seed(folder: Folder) -> None:
    first = sample_rows(folder, "train", 6, seed=5)
    assert (first == sample_rows(folder, "train", 6, seed=5)).all()
    assert (first != sample_rows(folder, "train", 6, seed=6)).any()
    assert (first[:3] == sample_rows(folder, "train", 3, seed=5)).all()


def test_rows_are_found_across_shards() -> None:
    shards = [Shard(name, rows, rows, 0, "") for name, rows in (("a", 3), ("b", 2))]
    assert locate([4, 0, 2], shards) == {"a": [(1, 0), (2, 2)], "b": [(0, 1)]}


def _tokenizer(path: Path, vocabulary: object, added: list[dict[str, object]] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": added or []}))


def test_models_may_know_more_tokens_but_none_otherwise(tmp_path: Path) -> None:
    shards, model = tmp_path / "shards", tmp_path / "model"
    _tokenizer(shards / "tokenizer/tokenizer.json", {"a": 0, "b": 1})
    _tokenizer(model / "tokenizer.json", {"a": 0, "b": 1}, [{"content": "<end>", "id": 2}])
    check_vocabulary(Folder(shards), Folder(model))
    _tokenizer(model / "tokenizer.json", [["a", -1.0], ["b", -2.0]])
    check_vocabulary(Folder(shards), Folder(model))
    _tokenizer(model / "tokenizer.json", {"a": 1, "b": 0})
    with pytest.raises(InputError, match="2 of 2 tokens differ"):
        check_vocabulary(Folder(shards), Folder(model))


def test_models_without_a_list_of_tokens_are_taken_on_trust(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    check_vocabulary(Folder(tmp_path / "shards"), Folder(tmp_path / "model"))
