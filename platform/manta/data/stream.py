"""The ordered stream: Ray Data hands each Ray Train worker its rows of every step, from any starting step on.

A dataset of step numbers is mapped to rows: `order.step_rows` says which, the shards' Parquet files hold them. So the
position is one integer, and nothing has to be skipped or replayed after a restart.
"""

from __future__ import annotations

import functools
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray.train

from manta.data import mixture, order
from manta.data.shards import Index, load_index

if TYPE_CHECKING:
    from ray.data import DataIterator, Dataset

BLOCK_BYTES = 4 * 2**20  # of rows in a block: large enough to amortise a task, small enough to hold several


@dataclass(frozen=True)
class Feed:
    """What is to be streamed: `steps` global batches of `batch` rows, in the order of `seed`."""

    shards: str  # folder that holds shards.json
    columns: tuple[str, ...]
    batch: int  # rows of a global batch
    steps: int  # of the whole run
    seed: int


@functools.lru_cache(maxsize=256)
def _open(folder: str, path: str) -> tuple[Any, np.ndarray]:
    """An open Parquet file, and the row at which each of its row groups starts (plus the end)."""
    import pyarrow.parquet as pq
    from fsspec.core import url_to_fs

    filesystem, where = url_to_fs(f"{folder}/{path}")
    file = pq.ParquetFile(filesystem.open(where, "rb"))
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    return file, np.cumsum([0, *sizes])


def take(folder: str, index: Index, split: str, rows: np.ndarray, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """The rows of a split with these numbers, in this order: {column: int32 (len(rows), seq_len)}.

    Each row group is read once per call, however many of its rows are wanted.
    """
    rows = np.asarray(rows, dtype=np.int64)
    files = index.splits[split]
    ends = np.cumsum([shard.rows for shard in files])
    out = {column: np.empty((len(rows), index.seq_len), dtype=np.int32) for column in columns}
    which = np.searchsorted(ends, rows, side="right")  # the file of each row
    for number in np.unique(which):
        file, starts = _open(folder, files[number].path)
        places = np.flatnonzero(which == number)
        local = rows[places] - (ends[number] - files[number].rows)
        groups = np.searchsorted(starts, local, side="right") - 1
        for group in np.unique(groups):
            chosen = groups == group
            table = file.read_row_group(int(group), columns=list(columns))
            for column in columns:
                values = table.column(column).combine_chunks().flatten().to_numpy().reshape(-1, index.seq_len)
                out[column][places[chosen]] = values[local[chosen] - starts[group]]
    return out


def epoch_order(index: Index, samples: np.ndarray, seed: int) -> np.ndarray:
    """The training row (int64) of each global sample index (int64), by the index's mixture where it has one."""
    if not index.mixture:
        return order.rows_of(samples, index.rows("train"), seed)
    there, shown = [share.rows for share in index.mixture], [share.shown for share in index.mixture]
    return mixture.rows_of(samples, there, shown, seed)


def read_steps(feed: Feed, steps: np.ndarray, rank: int, workers: int) -> dict[str, np.ndarray]:
    """The rows of `rank` in each of `steps`: {"step": (steps,), column: int32 (steps, rows, seq)}."""
    index = load_index(feed.shards)
    samples = order.step_samples(steps, feed.batch, rank, workers)
    rows = epoch_order(index, samples.ravel(), feed.seed).reshape(samples.shape)
    found = take(feed.shards, index, "train", rows.ravel(), feed.columns)
    return {"step": steps, **{name: values.reshape(*rows.shape, -1) for name, values in found.items()}}


class _Reader:
    """Turns a block of step numbers (counted from `start`) into rows; a class, so that Ray pickles plain values."""

    def __init__(self, feed: Feed, start: int, rank: int, workers: int):
        self.feed, self.start, self.rank, self.workers = feed, start, rank, workers

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return read_steps(self.feed, block["id"] + self.start, self.rank, self.workers)


def dataset(feed: Feed, start: int, rank: int, workers: int, seq_len: int) -> Dataset:
    """The steps from `start` on as a dataset of one record a step, in order."""
    import ray.data

    left = feed.steps - start
    step_bytes = len(feed.columns) * feed.batch // workers * seq_len * 4
    steps_per_block = max(1, min(BLOCK_BYTES // step_bytes, left))
    found = ray.data.range(left, override_num_blocks=math.ceil(left / steps_per_block))
    # A fraction of a CPU: the readers must be schedulable beside workers that hold every core.
    found = found.map_batches(_Reader(feed, start, rank, workers), batch_size=None, num_cpus=0.25)
    found.context.execution_options.preserve_order = True
    return found


class OrderedConfig(ray.train.DataConfig):
    """Gives each rank the iterator of its own rows, from the step at which this group of workers starts.

    `start` is asked once for every worker group, so after a failure the stream begins where the checkpoint stands.
    """

    def __init__(self, feed: Feed, seq_len: int, start: Callable[[], int]):
        super().__init__()
        self.feed, self.seq_len, self.start = feed, seq_len, start

    def configure(self, datasets: dict[str, Any], world_size: int, *_: Any, **__: Any) -> list[dict[str, DataIterator]]:
        start = self.start()
        if start >= self.feed.steps:
            return [dict.fromkeys(datasets) for _ in range(world_size)]
        return [
            {name: dataset(self.feed, start, rank, world_size, self.seq_len).iterator() for name in datasets}
            for rank in range(world_size)
        ]


def batches(iterator: DataIterator, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield (step, {column: int32 (rows, seq)}) for each step of this rank, in order."""
    for block in iterator.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
        for place, step in enumerate(block["step"]):
            yield int(step), {name: block[name][place] for name in columns}


class Ahead:
    """Runs an iterator in a thread, a few items ahead, and counts how long its consumer waits.

    Made before the model is built, so that Ray Data's readers start while the worker is busy importing and building.
    """

    def __init__(self, items: Iterator[Any], depth: int = 4):
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)
        self.waited = 0.0  # seconds, in all
        threading.Thread(target=self._fill, args=(items,), name="manta-stream", daemon=True).start()

    def _fill(self, items: Iterator[Any]) -> None:
        try:
            for item in items:
                self._queue.put(("item", item))
        except Exception as error:  # noqa: BLE001 - it is raised again where the item was wanted
            self._queue.put(("error", error))
        else:
            self._queue.put(("end", None))

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        started = time.monotonic()
        what, item = self._queue.get()
        self.waited += time.monotonic() - started
        if what == "error":
            raise item
        if what == "end":
            raise StopIteration
        return item
