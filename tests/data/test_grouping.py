"""Batches of rows of like length: each row once an epoch, whatever the workers, and less padding."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.data import grouping, order, stream
from manta.data.shards import LENGTH, Index, load_index, save_index, write_shard
from manta.data.stream import Feed, Part, read_steps, trimmed
from manta.storage import Folder

SEQ = 64


def skewed(count: int, seed: int = 0) -> np.ndarray:
    """Lengths as texts have them: many short, few long, int32 (count,) in 1..SEQ."""
    drawn = np.exp(np.random.default_rng(seed).normal(2.5, 0.8, count)).astype(np.int32) + 1
    return np.minimum(drawn, SEQ).astype(np.int32)


@settings(max_examples=80)
@given(
    count=st.integers(1, 400),
    batch=st.integers(1, 30),
    seed=st.integers(0, 2**63),
    starts=st.lists(st.integers(0, 900)),
)
def test_an_epoch_holds_each_row_once_and_a_step_is_the_same_by_itself(
    count: int, batch: int, seed: int, starts: list[int]
) -> None:
    known = skewed(count, seed % 1000)
    every = grouping.rows_of(np.arange(3 * count), known, batch, seed)
    for epoch in every.reshape(3, count):
        assert np.array_equal(np.sort(epoch), np.arange(count))
    some = np.array([start % (3 * count) for start in starts], dtype=np.int64)
    assert np.array_equal(grouping.rows_of(some, known, batch, seed), every[some]), "a function of the sample's index"


def test_one_epoch_by_hand() -> None:
    """Nine rows in batches of two: one step of each epoch is whole but for the one that both share."""
    known = np.array([5, 1, 9, 3, 7, 2, 8, 6, 4])
    permuted = [order.rows_of(np.arange(9) + 9 * epoch, 9, 1).tolist() for epoch in (0, 1)]
    found = grouping.rows_of(np.arange(18), known, 2, 1).tolist()
    # Epoch 0 is steps 0 to 3 and the first half of step 4, epoch 1 its second half and steps 5 to 8.
    assert found[8] == permuted[0][8] and found[9] == permuted[1][0], "the step of both is left as it is"
    for begin, source in ((0, permuted[0][:8]), (10, permuted[1][1:])):
        steps = [found[at : at + 2] for at in range(begin, begin + 8, 2)]
        # Four batches are four stretches: each is a pair of the permutation, the shorter row first.
        pairs = [sorted(source[at : at + 2], key=lambda row: known[row]) for at in range(0, 8, 2)]
        assert sorted(steps) == sorted(pairs)


def test_a_stretch_is_sorted_and_its_batches_are_scattered() -> None:
    batch, known = 4, skewed(4 * 40)
    rows = grouping.rows_of(np.arange(160), known, batch, 3).reshape(40, batch)
    permuted = order.rows_of(np.arange(160), 160, 3).reshape(grouping.PARTS, 40)
    wanted = np.concatenate([np.sort(known[part]).reshape(10, batch) for part in permuted])
    assert np.array_equal(np.sort(known[rows], axis=0), np.sort(wanted, axis=0))
    assert sorted(map(tuple, known[rows].tolist())) == sorted(map(tuple, wanted.tolist()))
    means = known[rows].mean(axis=1)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.4, "long batches do not come together"
    other = grouping.rows_of(np.arange(160) + 160, known, batch, 3).reshape(40, batch)
    assert {frozenset(row) for row in rows.tolist()}.isdisjoint(frozenset(row) for row in other.tolist())


def test_widths() -> None:
    assert grouping.widths(40, compiled=False) == (8, 16, 24, 32, 40)
    assert grouping.widths(30, compiled=False) == (8, 16, 24, 30), "the model has no more than 30 positions"
    assert grouping.widths(8, compiled=False) == grouping.widths(8, compiled=True) == (8,)
    assert grouping.widths(5, compiled=False, grain=1) == (1, 2, 3, 4, 5)
    assert grouping.widths(512, compiled=True) == (64, 128, 256, 512)
    assert grouping.widths(40, compiled=True) == (8, 16, 24, 40)
    found = grouping.width_of(np.array([[1, 8], [9, 30]]), (8, 16, 24, 30))
    assert found.tolist() == [[8, 8], [16, 30]]


# --- the stream ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, np.ndarray]:
    """Two files of rows whose tokens spell the row's number, filled up with -1; `labels` (rows,) are the numbers."""
    folder, known = Folder(tmp_path_factory.mktemp("filled")), skewed(301)
    numbers = np.arange(301, dtype=np.int32)
    ids = np.where(np.arange(SEQ)[None, :] < known[:, None], numbers[:, None], np.int32(-1)).astype(np.int32)
    columns = {"input_ids": ids, "labels": numbers, LENGTH: known}
    files = [
        write_shard(folder, f"train/{number}.parquet", {name: values[part] for name, values in columns.items()})
        for number, part in enumerate((slice(0, 200), slice(200, 301)))
    ]
    split = {"train": tuple(files), "validation": ()}
    index = Index(SEQ, 301, 0, None, None, split, columns=("input_ids", "labels"), padded=("input_ids",))
    save_index(folder, index)
    assert load_index(folder).padded == ("input_ids",)
    return folder.url, known


def feed_of(folder: str, grouped: bool = True, compiled: bool = False) -> Feed:
    trim = grouping.trim_of(("input_ids",), SEQ, grouped, compiled, "bf16")
    return Feed(folder, ("input_ids", "labels"), batch=12, steps=80, seed=4, trim=trim)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_worker_count_and_start_gives_the_same_batches(shards: tuple[str, np.ndarray], workers: int) -> None:
    """Steps 20 to 30 run over the end of the first epoch; a rank that starts there has what it would have come to."""
    folder, known = shards
    feed = feed_of(folder)
    alone = read_steps(feed, np.arange(31), 0, 1)
    for start in (0, 20):
        blocks = [read_steps(feed, np.arange(start, 31), rank, workers) for rank in range(workers)]
        for place, step in enumerate(range(start, 31)):
            parts = [trimmed(feed, block, place) for block in blocks]
            whole = trimmed(feed, alone, step)
            rows = np.concatenate([part["labels"] for part in parts])
            assert np.array_equal(rows, whole["labels"])
            assert np.array_equal(np.concatenate([part["input_ids"] for part in parts]), whole["input_ids"])
            width, longest = parts[0]["input_ids"].shape[1], min(SEQ, -(-known[rows].max() // 8) * 8)
            assert width == (longest if step else SEQ), "as wide as the longest of all ranks, the first step as any"
            shown = (whole["input_ids"] == rows[:, None]).sum(axis=1)
            assert np.array_equal(shown, known[rows]), "nothing but filling is cut off"


def test_batches_of_the_loop_are_cut(shards: tuple[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    feed = feed_of(shards[0])
    monkeypatch.setattr(stream, "LEAD", 10)  # all blocks are read here, without Ray
    late, whole = (list(stream.batches(Part(feed, start, 1, 2, SEQ), feed.columns)) for start in (33, 0))
    assert [step for step, _ in whole] == list(range(80))
    for (step, batch), (same, expected) in zip(late, whole[33:], strict=True):
        assert step == same and all(np.array_equal(batch[name], expected[name]) for name in feed.columns)
    seen = [(step, row) for step, batch in whole for row in batch["labels"].tolist()]
    assert len(set(seen)) == 80 * 6
    assert len({batch["input_ids"].shape[1] for _, batch in whole}) > 3


def test_grouping_takes_away_padding(shards: tuple[str, np.ndarray]) -> None:
    folder, known = shards
    shares = [stream.padding_share(feed_of(folder, grouped)) for grouped in (True, False)]
    assert shares[0] < 0.6 * shares[1] and shares[1] < 1 - known.mean() / SEQ, "as stored"
    rows, widths = stream.step_rows(feed_of(folder), np.arange(25))
    padding = (widths * 12).sum() - known[rows].sum()
    assert shares[0] == pytest.approx(padding / (widths * 12).sum())
    few = stream.step_rows(feed_of(folder, compiled=True), np.arange(25))[1]
    assert set(few.tolist()) <= {8, 16, 32, 64} and (few >= widths).all()


def test_without_grouping_the_order_is_that_of_the_seed(shards: tuple[str, np.ndarray]) -> None:
    folder, known = shards
    feed = feed_of(folder, grouped=False)
    found = read_steps(feed, np.arange(30), 0, 1)
    rows = order.rows_of(np.arange(360), 301, 4).reshape(30, 12)
    assert np.array_equal(found["labels"], rows)
    assert np.array_equal(found["width"][1:], np.minimum(SEQ, -(-known[rows].max(axis=1) // 8) * 8)[1:])
    assert found["width"][0] == SEQ, "where memory does not suffice, the first step says so"


def test_shards_that_fill_nothing_up_are_left_alone(tmp_path: Path) -> None:
    assert grouping.trim_of((), SEQ, True, False, "fp32") is None
    folder = Folder(tmp_path)
    ids = np.arange(40, dtype=np.int32).reshape(10, 4)
    save_index(folder, Index(4, 40, 0, None, None, {"train": (write_shard(folder, "t.parquet", {"input_ids": ids}),)}))
    feed = Feed(folder.url, ("input_ids",), 5, 2, 0)
    block = read_steps(feed, np.arange(2), 0, 1)
    assert "width" not in block
    steps = [trimmed(feed, block, place)["input_ids"] for place in (0, 1)]
    assert sorted(itertools.chain(*(step[:, 0].tolist() for step in steps))) == list(range(0, 40, 4))
