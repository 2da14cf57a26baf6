"""Mixed sources: quotas are exact, an epoch shows them, and no row of a source is favoured."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manta import recipe as recipes
from manta import stage
from manta.data import mixture, order, prepare, shards, stream
from manta.errors import RecipeError
from manta.progress import Progress
from manta.schema import PrepareRecipe
from manta.storage import Folder


@given(
    rows=st.lists(st.integers(1, 10_000), min_size=1, max_size=5),
    weights=st.lists(st.floats(0.01, 100.0), min_size=5, max_size=5),
    max_repeats=st.floats(0.5, 4.0),
)
def test_quotas_are_proportional_to_one_row_and_bounded(
    rows: list[int], weights: list[float], max_repeats: float
) -> None:
    weights = weights[: len(rows)]
    found = mixture.quotas(rows, weights, max_repeats)
    length = sum(found)
    for quota, weight, count in zip(found, weights, rows, strict=True):
        assert abs(quota - length * weight / sum(weights)) <= 1
        assert quota <= max_repeats * count + 1
    longer = length + 1  # the epoch is as long as the source that runs out first allows
    assert any(longer * w / sum(weights) > max_repeats * n * (1 - 1e-9) for w, n in zip(weights, rows, strict=True))


def test_quotas_by_hand() -> None:
    assert mixture.quotas([100, 100], [3, 1], 1.0) == [100, 33]
    assert mixture.quotas([100, 1000], [1, 1], 1.0) == [100, 100]
    assert mixture.quotas([100, 1000], [1, 1], 2.5) == [250, 250]


ROWS, SHOWN = [40, 10, 7], [30, 20, 7]  # a part, twice, once


def test_an_epoch_shows_each_source_as_often_as_its_quota() -> None:
    for epoch in range(3):
        samples = np.arange(57) + 57 * epoch
        found = mixture.rows_of(samples, ROWS, SHOWN, seed=5)
        counts = Counter(np.searchsorted([40, 50, 57], found, side="right").tolist())
        assert counts == {0: 30, 1: 20, 2: 7}
        assert set(Counter(found[(found >= 40) & (found < 50)].tolist()).values()) == {2}


def test_epochs_go_on_where_the_last_left_off() -> None:
    found = mixture.rows_of(np.arange(57 * 4), ROWS, SHOWN, seed=5)
    first = Counter(found[found < 40].tolist())
    assert set(first.values()) == {3}, "120 places for 40 rows: each three times"
    assert len(first) == 40


def test_rows_do_not_depend_on_how_they_are_asked_for() -> None:
    whole = mixture.rows_of(np.arange(200), ROWS, SHOWN, seed=1)
    parts = [mixture.rows_of(np.arange(i, i + 10), ROWS, SHOWN, seed=1) for i in range(0, 200, 10)]
    assert np.array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole, mixture.rows_of(np.arange(200), ROWS, SHOWN, seed=2))


def test_without_weights_the_order_is_as_ever(tmp_path: Path) -> None:
    index = shards.Index(8, 10, 0, 0, 0, {"train": (shards.Shard("a", 50, 400, 1, ""),), "validation": ()})
    samples = np.arange(120)
    assert np.array_equal(stream.epoch_order(index, samples, 3), order.rows_of(samples, 50, 3))
    assert index.epoch_rows() == 50


def make(folder: Path, *weights: float | None, **data: Any) -> PrepareRecipe:
    sources = [
        {"path": f"{folder}/{name}/*.txt", "format": "text"} | ({} if weight is None else {"weight": weight})
        for name, weight in zip("ab", weights, strict=True)
    ]
    raw = {"kind": "prepare", "name": "mixed", "output": str(folder / "runs"), "tokenizer": {"vocab_size": 300}}
    raw["data"] = {"sources": sources, "seq_len": 16, "shard_tokens": 2000, "validation_fraction": 0.2} | data
    made = recipes.validate(raw)
    assert isinstance(made, PrepareRecipe)
    return made


def test_half_a_mixture_is_refused(tmp_path: Path) -> None:
    assert [p.path for p in prepare.problems(make(tmp_path, 1.0, None))] == ["data.sources.1.weight"]
    assert [p.path for p in prepare.problems(make(tmp_path, None, None, max_repeats=2.0))] == ["data.max_repeats"]
    with pytest.raises(RecipeError, match="weight"):
        make(tmp_path, 1.0, 0.0)


@pytest.mark.integration
def test_the_index_says_what_an_epoch_shows(tmp_path: Path, ray_session: None) -> None:
    for name, count in (("a", 30), ("b", 90)):
        (tmp_path / name).mkdir()
        for number in range(count):
            text = f"Text {number} of {name} says {number} times over that it is text {number} of source {name}, no other. "
            (tmp_path / name / f"{number:03}.txt").write_text(text * 2)
    made = stage.run(make(tmp_path, 3.0, 1.0, max_repeats=2.0), Progress(quiet=True)).artifact
    index = shards.load_index(Folder(made.folder.url))
    [one, other] = index.mixture
    assert (one.rows, other.rows) == tuple(
        sum(shard.rows for shard in index.splits["train"] if _source(made.folder, shard.path, name))
        for name in ("a", "b")
    )
    assert (one.shown, other.shown) == (2 * one.rows, round(2 * one.rows / 3))
    assert made.metrics["epoch_rows"] == index.epoch_rows() == one.shown + other.shown
    feed = stream.Feed(made.folder.url, ("input_ids",), 4, 10, 0)
    rows = stream.read_steps(feed, np.arange(3), 0, 2)["input_ids"]
    assert rows.shape == (3, 2, 16)


def _source(folder: Any, path: str, name: str) -> bool:
    """Whether a shard's documents are of this source, and of no other."""
    table = shards.read_table(Folder(folder.url), f"documents/train-{path.rpartition('/')[2]}", ("source",))
    found = set(table.column("source").to_pylist())
    assert len(found) == 1
    return f"/{name}/" in found.pop()
