"""Whatever is killed and whoever goes on, the samples are those of one undisturbed worker: each once an epoch, in order."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.data import shards, stream
from manta.data.shards import Index, Shard, Share
from manta.storage import Folder

SEQ, COLUMNS = 4, ("input_ids",)


class Here:
    """What `stream.dataset` gives, read in this process instead of by Ray's."""

    def __init__(self, part: stream.Part, blocks: Sequence[tuple[int, int]]):
        self.part, self.blocks = part, blocks

    def iter_batches(self, **_: Any) -> Iterator[dict[str, np.ndarray]]:
        for start, end in self.blocks:
            yield stream._Reader(self.part)({"start": np.array([start]), "end": np.array([end])})


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "dataset", Here)
        patch.setattr(stream, "BLOCK_BYTES", 200)  # so that even few rows are many blocks, and several windows
        patch.setattr(stream, "WINDOW", 3)
        yield


class Attempt(NamedTuple):
    """One group of workers: how far its last checkpoint is from its start, and how far it went after that in vain."""

    workers: int
    kept: int
    lost: int


class Run(NamedTuple):
    sizes: list[int]  # rows of each file
    shares: list[tuple[int, int]]  # (rows, shown) of each source; empty: no mixture
    batch: int
    epochs: int
    seed: int
    attempts: list[Attempt]  # the last one gets to the end


@st.composite
def runs(draw: st.DrawFn, mixed: bool) -> Run:
    attempts = draw(
        st.lists(
            st.builds(Attempt, st.sampled_from([1, 2, 3, 5]), st.integers(0, 8), st.integers(0, 4)),
            min_size=1,
            max_size=5,
        )
    )
    batch = math.lcm(*(attempt.workers for attempt in attempts)) * draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(1, 150), min_size=1, max_size=4))
    shares = []
    if mixed:
        cuts = draw(st.sets(st.integers(1, max(1, sum(sizes) - 1)), max_size=2)) - {sum(sizes)}
        held = np.diff([0, *sorted(cuts), sum(sizes)]).tolist()
        shares = [(rows, draw(st.integers(1, 2 * rows))) for rows in held]
    return Run(sizes, shares, batch, draw(st.integers(1, 3)), draw(st.integers(0, 2**63)), attempts)


def prepared(run: Run, folder: Folder) -> tuple[stream.Feed, Index]:
    """An artifact whose rows spell their numbers, and the feed of whole epochs (the last step may enter one more)."""
    ends = np.cumsum(run.sizes)
    files = []
    for number, (end, size) in enumerate(zip(ends.tolist(), run.sizes, strict=True)):
        values = pa.array(np.repeat(np.arange(end - size, end, dtype=np.int32), SEQ))
        table = pa.table({COLUMNS[0]: pa.FixedSizeListArray.from_arrays(values, SEQ)})
        stored, sha256 = shards.write_table(folder, f"train/{number:05}.parquet", table, row_group_size=16)
        files.append(Shard(f"train/{number:05}.parquet", size, size * SEQ, stored, sha256))
    mixture = tuple(Share(f"source {number}", *share) for number, share in enumerate(run.shares))
    index = Index(SEQ, int(ends[-1]), 0, None, None, {"train": tuple(files), "validation": ()}, mixture)
    shards.save_index(folder, index)
    steps = math.ceil(run.epochs * index.epoch_rows() / run.batch)
    return stream.Feed(folder.url, COLUMNS, run.batch, steps, run.seed), index


def read(feed: stream.Feed, start: int, rank: int, workers: int) -> Generator[tuple[int, np.ndarray], None, None]:
    """What a rank's loop gets: (step, row numbers)."""
    with contextlib.closing(stream.batches(stream.Part(feed, start, rank, workers, SEQ), COLUMNS)) as steps:
        for step, found in steps:
            rows = found[COLUMNS[0]]
            assert (rows == rows[:, :1]).all(), "a row's tokens belong together"
            yield step, rows[:, 0].astype(np.int64)


def read_together(feed: stream.Feed, start: int, end: int, workers: int) -> Iterator[tuple[int, np.ndarray]]:
    """(step, the global batch) of a group of workers, killed before step `end`."""
    with contextlib.ExitStack() as held:
        ranks = [held.enter_context(contextlib.closing(read(feed, start, rank, workers))) for rank in range(workers)]
        for step, found in zip(range(start, end), zip(*ranks, strict=True), strict=False):
            assert {number for number, _ in found} == {step}
            yield step, np.concatenate([rows for _, rows in found])


def with_failures(run: Run, feed: stream.Feed) -> np.ndarray:
    """The rows that the model has learnt from when the last attempt is through: int64 (steps, batch)."""
    learnt: list[np.ndarray] = []
    for number, attempt in enumerate(run.attempts):
        start, last = len(learnt), number == len(run.attempts) - 1
        end = feed.steps if last else min(feed.steps, start + attempt.kept + attempt.lost)
        done = [rows for _, rows in read_together(feed, start, end, attempt.workers)]
        assert len(done) == end - start
        learnt += done if last else done[: attempt.kept]
    return np.array(learnt)


def alone(feed: stream.Feed) -> np.ndarray:
    """The rows that one undisturbed worker learns from: int64 (steps, batch)."""
    return np.array([rows for _, rows in read(feed, 0, 0, 1)])


@settings(max_examples=40)
@given(run=runs(mixed=False))
def test_kills_and_other_numbers_of_workers_change_nothing(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    feed, index = prepared(run, Folder(tmp_path_factory.mktemp("plain")))
    learnt = with_failures(run, feed)
    assert np.array_equal(learnt, alone(feed))
    for epoch in np.split(learnt.ravel(), np.arange(1, run.epochs + 1) * index.rows("train"))[:-1]:
        assert np.array_equal(np.sort(epoch), np.arange(index.rows("train"))), "each row once"


@settings(max_examples=40)
@given(run=runs(mixed=True))
def test_a_mixture_keeps_its_shares_whatever_is_killed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    feed, index = prepared(run, Folder(tmp_path_factory.mktemp("mixed")))
    learnt = with_failures(run, feed)
    assert np.array_equal(learnt, alone(feed))
    whole = learnt.ravel()[: run.epochs * index.epoch_rows()]
    bounds = np.cumsum([share.rows for share in index.mixture])
    for epoch in np.split(whole, run.epochs):
        sources = np.bincount(np.searchsorted(bounds, epoch, side="right"), minlength=len(bounds))
        assert sources.tolist() == [share.shown for share in index.mixture]
    for times in np.split(np.bincount(whole, minlength=bounds[-1]), bounds[:-1]):
        assert times.max() - times.min() <= 1, "no row of a source is favoured"


@settings(max_examples=40)
@given(run=st.one_of(runs(mixed=False), runs(mixed=True)), data=st.data())
def test_a_rank_starts_in_the_middle_as_if_it_had_come_there(
    run: Run, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    feed, _ = prepared(run, Folder(tmp_path_factory.mktemp("middle")))
    workers, start = run.attempts[0].workers, data.draw(st.integers(0, feed.steps))
    rank = data.draw(st.integers(0, workers - 1))
    late, whole = (list(read(feed, begin, rank, workers)) for begin in (start, 0))
    assert [step for step, _ in late] == list(range(start, feed.steps))
    for (step, rows), (same, expected) in itertools.zip_longest(late, whole[start:]):
        assert step == same
        assert np.array_equal(rows, expected)
