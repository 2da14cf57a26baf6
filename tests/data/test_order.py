"""The sample order: a bijection per epoch, a function of its arguments alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import shuffle
from manta.data.order import permute, rows_of, step_samples

# Rows, rows of a batch and of a shard; among the rows a power of two, which the permutation's bits just hold, and one more.
SIZES = [(1000, 8, 128), (4096, 16, 512), (4097, 16, 512), (20_000, 64, 2048), (100_003, 256, 2048)]
LIMIT, BAD_ROWS = 5.0, 20_000  # standard deviations: random orders exceed 4.5 once in some ten thousand


@settings(max_examples=60, deadline=None)
@given(num_rows=st.integers(1, 3000), seed=st.integers(0, 2**63), epoch=st.integers(0, 10_000))
def test_an_epoch_holds_every_row_once(num_rows: int, seed: int, epoch: int) -> None:
    rows = permute(np.arange(num_rows), num_rows, seed, epoch)
    assert np.array_equal(np.sort(rows), np.arange(num_rows))


@pytest.mark.parametrize(("seed", "epoch"), [(0, 1), (1, 0), (2, 7)])
def test_another_seed_or_epoch_is_another_order(seed: int, epoch: int) -> None:
    first, other = permute(np.arange(5000), 5000, 0, 0), permute(np.arange(5000), 5000, seed, epoch)
    assert (first == other).mean() < 0.01


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("num_rows", "batch", "shard_rows"), SIZES)
def test_the_order_is_as_random_as_a_random_one(num_rows: int, batch: int, shard_rows: int, seed: int) -> None:
    """Neither numpy's permutations nor ours are told from random ones by any statistic."""
    rng, index = np.random.default_rng(seed), np.arange(num_rows)
    drawn = shuffle.deviations(rng.permutation(num_rows), rng.permutation(num_rows), batch, shard_rows)
    ours = [permute(index, num_rows, seed, epoch) for epoch in (seed, seed + 1)]
    assert shuffle.largest(drawn) < LIMIT, drawn
    assert shuffle.largest(found := shuffle.deviations(ours[0], ours[1], batch, shard_rows)) < LIMIT, found


def buffered(rng: np.random.Generator) -> np.ndarray:
    """The order of a stream that is shuffled by drawing from a buffer of 1,000 rows."""
    buffer, out = list(range(1000)), []
    for row in range(1000, BAD_ROWS):
        place = rng.integers(len(buffer))
        out.append(buffer[place])
        buffer[place] = row
    return np.array([*out, *rng.permutation(buffer)])


def in_blocks(rng: np.random.Generator, size: int, inside: bool) -> np.ndarray:
    """Blocks of `size` rows in random order, each in its own order or (`inside`) shuffled as well."""
    blocks = rng.permutation(BAD_ROWS // size)[:, None] * size + np.arange(size)
    return (rng.permuted(blocks, axis=1) if inside else blocks).ravel()


BAD: dict[str, Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]] = {
    "rank_correlation": lambda rng: (buffered(rng), rng.permutation(BAD_ROWS)),
    "distances": lambda rng: (in_blocks(rng, 2, False), rng.permutation(BAD_ROWS)),
    "same_shard": lambda rng: (in_blocks(rng, 1000, True), rng.permutation(BAD_ROWS)),
    "neighbours": lambda rng: (in_blocks(rng, 4, True), rng.permutation(BAD_ROWS)),
    "epoch_correlation": lambda rng: (rows := rng.permutation(BAD_ROWS), rows),
    "epoch_batches": lambda rng: (rows := rng.permutation(BAD_ROWS), np.roll(rows, 7)),
}


@pytest.mark.parametrize("statistic", BAD)
def test_a_bad_shuffle_is_told_from_a_random_one(statistic: str) -> None:
    rows, after = BAD[statistic](np.random.default_rng(0))
    found = shuffle.deviations(rows, after, batch=64, shard_rows=1000)
    assert abs(found[statistic]) > 4 * LIMIT, found


def test_the_order_never_changes() -> None:
    """Pinned: a checkpoint's position means something only while this function stays what it is."""
    assert permute(np.arange(8), 10, 42, 0).tolist() == [9, 4, 0, 6, 1, 2, 7, 5]


def test_memory_does_not_grow_with_the_corpus() -> None:
    rows = permute(np.array([0, 1, 10**14 - 1]), 10**14, 5, 0)
    assert len(set(rows.tolist())) == 3
    assert rows.max() < 10**14


def test_samples_beyond_the_corpus_are_the_next_epoch() -> None:
    rows = rows_of(np.arange(21), 7, seed=1)
    assert [sorted(rows[start : start + 7]) for start in (0, 7, 14)] == [list(range(7))] * 3
    assert np.array_equal(rows[7:14], permute(np.arange(7), 7, 1, 1))


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("start", [0, 1, 13])
def test_workers_share_the_same_batches(workers: int, start: int) -> None:
    """Ranks put side by side give each step's batch in the one order, from any starting step."""
    steps = np.arange(start, start + 20)
    samples = np.concatenate([step_samples(steps, 30, rank, workers) for rank in range(workers)], axis=1)
    assert np.array_equal(samples, np.arange(start * 30, (start + 20) * 30).reshape(20, 30))


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_outside_the_corpus_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="index must lie in"):
        permute(np.array([index]), 10, 0)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be shared by 4 workers"):
        step_samples(np.arange(2), 6, 0, 4)
