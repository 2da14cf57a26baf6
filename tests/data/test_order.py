"""The sample order: a bijection per epoch, a function of its arguments alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manta.data.order import permute, rows_of, step_rows


@settings(max_examples=60, deadline=None)
@given(num_rows=st.integers(1, 3000), seed=st.integers(0, 2**63), epoch=st.integers(0, 10_000))
def test_an_epoch_holds_every_row_once(num_rows: int, seed: int, epoch: int) -> None:
    rows = permute(np.arange(num_rows), num_rows, seed, epoch)
    assert np.array_equal(np.sort(rows), np.arange(num_rows))


@pytest.mark.parametrize(("seed", "epoch"), [(0, 1), (1, 0), (2, 7)])
def test_another_seed_or_epoch_is_another_order(seed: int, epoch: int) -> None:
    first, other = permute(np.arange(5000), 5000, 0, 0), permute(np.arange(5000), 5000, seed, epoch)
    assert (first == other).mean() < 0.01


def test_the_order_is_shuffled_thoroughly() -> None:
    """Neighbours in the order are no nearer in the corpus than two random rows, which lie num_rows / 3 apart."""
    rows = permute(np.arange(100_000), 100_000, 3, 0)
    assert np.abs(np.diff(rows)).mean() == pytest.approx(100_000 / 3, rel=0.02)
    assert abs(np.corrcoef(np.arange(100_000), rows)[0, 1]) < 0.02
    assert abs(np.corrcoef(permute(np.arange(100_000), 100_000, 3, 1), rows)[0, 1]) < 0.02


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
    batches = np.concatenate([step_rows(steps, 30, rank, workers, 101, 9) for rank in range(workers)], axis=1)
    whole = rows_of(np.arange(33 * 30), 101, 9).reshape(33, 30)
    assert np.array_equal(batches, whole[start : start + 20])


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_outside_the_corpus_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="index must lie in"):
        permute(np.array([index]), 10, 0)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be shared by 4 workers"):
        step_rows(np.arange(2), 6, 0, 4, 100, 0)
