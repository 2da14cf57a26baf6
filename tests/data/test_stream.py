"""What the stream reads, without Ray; that Ray delivers it in order is part of tests/train/test_training.py."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from manta.data import stream
from manta.data.layouts import denoising
from manta.data.order import rows_of
from manta.data.shards import Index, Noise, Shard, save_index, write_shard, write_table
from manta.data.stream import Ahead, Feed, OrderedConfig, Part, read_steps, take
from manta.data.views.spans import Corrupted
from manta.errors import InputError
from manta.storage import Folder

SEQ, SIZES = 8, (300, 1, 150)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Index, np.ndarray]:
    """Three files, the first of several row groups; the token ids of a row spell its number."""
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


def test_the_index_is_read_once_a_process(
    shards: tuple[str, Index, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block must not pay for the size of the corpus."""
    folder, _, _ = shards
    feed = Feed(folder, ("input_ids",), batch=6, steps=100, seed=4)
    first = read_steps(feed, np.arange(1), 0, 1)["input_ids"]
    monkeypatch.setattr(stream, "load_index", lambda _: pytest.fail("it was read a second time"))
    assert np.array_equal(read_steps(feed, np.arange(1), 0, 1)["input_ids"], first)


def test_an_artifact_made_again_in_its_place_is_read_anew(tmp_path: Path) -> None:
    """Other rows of the same number under the same names: neither the index nor an open file of before may be used."""
    folder, feed = Folder(tmp_path), Feed(str(tmp_path), ("input_ids",), batch=5, steps=1, seed=0)
    for token in (1, 2):
        values = pa.array(np.full(5 * SEQ, token, dtype=np.int32))
        table = pa.table({"input_ids": pa.FixedSizeListArray.from_arrays(values, SEQ)})
        stored, sha256 = write_table(folder, "train/00000.parquet", table)
        shard = Shard("train/00000.parquet", 5, 5 * SEQ, stored, sha256)
        save_index(folder, Index(SEQ, 10, 0, None, None, {"train": (shard,), "validation": ()}))
        assert np.all(read_steps(feed, np.arange(1), 0, 1)["input_ids"] == token)


def test_an_artifact_that_is_gone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no shards\.json"):
        read_steps(Feed(str(tmp_path), ("input_ids",), 1, 1, 0), np.arange(1), 0, 1)


@pytest.mark.parametrize(("start", "steps"), [(0, 1), (0, 5000), (1234, 5000), (4999, 5000), (5000, 5000)])
def test_blocks_hold_every_step_once(start: int, steps: int) -> None:
    part = Part(Feed("", ("input_ids",), 8, steps, 0), start, 0, 2, seq_len=512)
    blocks = list(part.blocks())
    assert [step for begin, end in blocks for step in range(begin, end)] == list(range(start, steps))
    sizes = [end - begin for begin, end in blocks]
    assert sizes[:3] == [1, 2, 4][: len(sizes)] or steps - start < 7, "the first comes soon"
    assert max(sizes, default=0) * 4 * 512 * 4 <= stream.BLOCK_BYTES


def test_the_first_block_of_an_endless_run_is_known_at_once() -> None:
    part = Part(Feed("", ("input_ids",), 8, 10**15, 0), 10**14, 0, 1, seq_len=512)
    assert list(itertools.islice(part.blocks(), 2)) == [(10**14, 10**14 + 1), (10**14 + 1, 10**14 + 3)]


def test_a_group_of_workers_starts_where_the_checkpoint_stands() -> None:
    feed = Feed("", ("input_ids",), 6, 20, 0)
    config = OrderedConfig(feed, SEQ, lambda: 7)
    found = config.configure({"train": None}, 3, None, None)
    assert found == [{"train": Part(feed, 7, rank, 3, SEQ)} for rank in range(3)]
    finished = OrderedConfig(feed, SEQ, lambda: 20)
    assert finished.configure({"train": None}, 2) == [{"train": None}] * 2


def test_ahead_keeps_order_and_ends() -> None:
    assert list(Ahead(iter(range(50)), depth=2)) == list(range(50))


def test_a_closed_ahead_ends_its_thread() -> None:
    ended = threading.Event()

    def source() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            ended.set()

    ahead = Ahead(source(), depth=1)
    assert next(ahead) == 0
    ahead.close()
    assert ended.wait(10)


def test_ahead_raises_what_the_source_raised() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    ahead = Ahead(source())
    assert next(ahead) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_the_first_blocks_come_without_ray_data_and_the_rest_follow_in_order(
    shards: tuple[str, Index, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, rows = shards
    asked: list[tuple[int, int]] = []
    started, go_on = threading.Event(), threading.Event()

    def slow(part: Part, blocks: Iterator[tuple[int, int]]) -> Iterator[dict[str, np.ndarray]]:
        started.set()
        assert go_on.wait(60)
        for start, end in blocks:
            asked.append((start, end))
            yield read_steps(part.feed, np.arange(start, end), part.rank, part.workers)

    monkeypatch.setattr(stream, "_read", slow)
    feed = Feed(folder, ("input_ids",), batch=6, steps=200, seed=4)
    lead = sum(2**number for number in range(stream.LEAD))
    found = stream.batches(Part(feed, 70, 0, 1, SEQ), feed.columns)
    first = [next(found) for _ in range(lead)]
    assert started.is_set(), "it is started at once all the same"
    go_on.set()
    every = [*first, *found]
    assert [step for step, _ in every] == list(range(70, 200))
    assert asked[0][0] == 70 + lead
    expected = rows[rows_of(np.arange(420, 1200), len(rows), seed=4)].reshape(130, 6, SEQ)
    assert np.array_equal(np.stack([batch["input_ids"] for _, batch in every]), expected)


def test_a_run_that_ends_within_the_lead_starts_no_ray_data(
    shards: tuple[str, Index, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("nothing is left for it to read")

    monkeypatch.setattr(stream, "dataset", refused)
    feed = Feed(shards[0], ("input_ids",), batch=6, steps=40, seed=4)
    assert [step for step, _ in stream.batches(Part(feed, 0, 0, 1, SEQ), feed.columns)] == list(range(40))


def test_columns_of_any_width_and_single_numbers(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    columns = {
        "input_ids": np.arange(80, dtype=np.int32).reshape(20, 4),
        "next_sentence_label": np.arange(20, dtype=np.int32) % 2,
    }
    split = {"train": (write_shard(folder, "train/0.parquet", columns),), "validation": ()}
    save_index(folder, Index(4, 80, 0, None, None, split, layout="sentence_pairs", columns=tuple(columns)))
    feed = Feed(folder.url, tuple(columns), batch=5, steps=8, seed=1)
    found = read_steps(feed, np.arange(3, 8), 0, 1)
    wanted = rows_of(np.arange(15, 40), 20, seed=1)
    assert np.array_equal(found["input_ids"], columns["input_ids"][wanted].reshape(5, 5, 4))
    assert np.array_equal(found["next_sentence_label"], columns["next_sentence_label"][wanted].reshape(5, 5))


def test_hidden_spans_are_those_of_the_sample_and_new_in_each_epoch(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    noise = Noise(tokens=12, hidden=4, spans=2, eos_id=1, sentinels=(98, 99))
    rows = np.random.default_rng(0).integers(2, 90, (10, 12)).astype(np.int32)
    split = {"train": (write_shard(folder, "train/0.parquet", {"input_ids": rows}),), "validation": ()}
    save_index(folder, Index(11, 100, 1, None, 0, split, layout="denoising", noise=noise))
    feed = Feed(folder.url, denoising.COLUMNS, batch=10, steps=2, seed=3, view=Corrupted(noise))
    found = read_steps(feed, np.arange(2), 0, 1)
    assert found["input_ids"].shape == (2, 10, noise.input_len) and found["labels"].shape == (2, 10, noise.target_len)
    for epoch in range(2):
        samples = np.arange(10) + 10 * epoch
        expected = denoising.corrupt(rows[rows_of(samples, 10, seed=3)], samples, 3, noise)
        assert all(np.array_equal(found[name][epoch], expected[name]) for name in denoising.COLUMNS)
    one, two = (found["labels"][epoch][rows_of(np.arange(10) + 10 * epoch, 10, 3).argsort()] for epoch in range(2))
    assert (one != two).any(axis=1).sum() >= 8
    halves = [read_steps(feed, np.arange(2), rank, 2)["labels"] for rank in range(2)]
    assert np.array_equal(np.concatenate(halves, axis=1), found["labels"]), "whatever the workers"
