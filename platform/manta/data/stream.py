"""The ordered stream: Ray Data hands each Ray Train worker its rows of every step, from any starting step on.

A step's number says which rows it holds (`order`), the shards' Parquet files hold them. So the position is one integer,
and nothing has to be skipped or replayed after a restart. Nothing that is done before the first batch, or for a block,
grows with the length of the run; only the index, which a process reads once, grows with the corpus. The first blocks are
read by the worker itself, since Ray Data's processes need seconds to start.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray.train

from manta.data import grouping, mixture, order
from manta.data.shards import INDEX, LENGTH, Index, Shard, load_index, read_rows, read_table, to_numpy
from manta.storage import Folder

if TYPE_CHECKING:
    from ray.data import Dataset

    from manta.data.views import View

ROWS = "rows.parquet"  # beside shards: int64 numbers of the rows that are there, ascending
BLOCK_BYTES = 4 * 2**20  # of rows in a block: large enough to amortise a task, small enough to hold several
READERS = 2  # tasks of a rank at a time: each is a process, which needs a second of a core to start
LEAD = 6  # blocks that the worker reads itself, of 1, 2, 4 ... steps, while Ray Data starts
WINDOW = 32  # blocks that Ray Data plans at once: with thousands it plans for minutes before it reads the first
_READING = threading.Lock()  # an open file is kept, and pyarrow lets only one thread read it


@dataclass(frozen=True)
class Beside:
    """What was computed of training rows and is stored apart from them: `folder` is laid out as prepared shards are, with
    the rows in the order of their numbers, of which it holds those in `rows.parquet`."""

    folder: str
    columns: tuple[str, ...]
    words: int  # int32 of a row


@dataclass(frozen=True)
class Feed:
    """What is to be streamed: `steps` global batches of `batch` rows, in the order of `seed`."""

    shards: str  # folder that holds shards.json
    columns: tuple[str, ...]
    batch: int  # rows of a global batch
    steps: int  # of the whole run
    seed: int
    view: View | None = None  # what makes `columns` of those that are stored
    trim: grouping.Trim | None = None  # None: rows are trained on as long as they are stored
    beside: Beside | None = None  # more columns of the training rows

    @property
    def delivered(self) -> tuple[str, ...]:
        """The columns that a step trains on."""
        return self.columns + (self.beside.columns if self.beside else ())


# --- reading ---------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _open(folder: str, path: str, _sha256: str) -> tuple[Any, np.ndarray]:
    """An open Parquet file, and the row at which each of its row groups starts (plus the end).

    The file's hash is part of the key: a process that outlives an artifact must not read on in what replaced it.
    """
    import pyarrow.parquet as pq
    from fsspec.core import url_to_fs

    local = Folder(folder).local_path
    if local is not None:  # opened by pyarrow itself in half the time
        file = pq.ParquetFile(local / path)
    else:
        filesystem, where = url_to_fs(f"{folder}/{path}")
        file = pq.ParquetFile(filesystem.open(where, "rb"))
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    return file, np.cumsum([0, *sizes])


def _ends(files: Sequence[Shard]) -> np.ndarray:
    """The row at which each file ends, int64 (files,), counted over all of them."""
    return np.cumsum(np.fromiter((shard.rows for shard in files), dtype=np.int64, count=len(files)))


def take(folder: str, index: Index, split: str, rows: np.ndarray, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """The rows of a split with these numbers, in this order: {column: int32 (len(rows), width) or (len(rows),)}.

    Each row group is read once per call, however many of its rows are wanted.
    """
    return _take(folder, index, split, _ends(index.splits[split]), rows, columns)


def _take(
    folder: str, index: Index, split: str, ends: np.ndarray, rows: np.ndarray, columns: Sequence[str]
) -> dict[str, np.ndarray]:
    rows, files = np.asarray(rows, dtype=np.int64), index.splits[split]
    out: dict[str, np.ndarray] = {}
    which = np.searchsorted(ends, rows, side="right")  # the file of each row
    for number in np.unique(which):
        file, starts = _open(folder, files[number].path, files[number].sha256)
        places = np.flatnonzero(which == number)
        local = rows[places] - (ends[number] - files[number].rows)
        groups = np.searchsorted(starts, local, side="right") - 1
        for group in np.unique(groups):
            chosen = groups == group
            with _READING:
                table = file.read_row_group(int(group), columns=list(columns), use_threads=False)
            for column in columns:
                values = to_numpy(table.column(column))
                if column not in out:
                    out[column] = np.empty((len(rows), *values.shape[1:]), dtype=np.int32)
                out[column][places[chosen]] = values[local[chosen] - starts[group]]
    return out


def viewed(feed: Feed, index: Index, split: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    """These rows of a split as they are trained on, each as the sample of its own number: {column: int32 (n, ...)}."""
    return _viewed(feed, index, split, _ends(index.splits[split]), rows, rows)


def _viewed(
    feed: Feed, index: Index, split: str, ends: np.ndarray, rows: np.ndarray, samples: np.ndarray
) -> dict[str, np.ndarray]:
    if feed.view is None:
        return _take(feed.shards, index, split, ends, rows, feed.columns)
    stored = _take(feed.shards, index, split, ends, rows, feed.view.columns_in)
    return feed.view(stored, samples, feed.seed)


def epoch_order(index: Index, samples: np.ndarray, seed: int) -> np.ndarray:
    """The training row (int64) of each global sample index (int64), by the index's mixture where it has one."""
    if not index.mixture:
        return order.rows_of(samples, index.rows("train"), seed)
    there, shown = [share.rows for share in index.mixture], [share.shown for share in index.mixture]
    return mixture.rows_of(samples, there, shown, seed)


def read_steps(feed: Feed, steps: np.ndarray, rank: int, workers: int) -> dict[str, np.ndarray]:
    """The rows of `rank` in each of `steps`: {"step": (steps,), column: int32 (steps, rows, ...)}.

    Where the feed trims, "width" (steps,) is what `trimmed` leaves of each step, the same on all ranks.
    """
    index, ends = _index(feed.shards, _version(feed.shards))
    samples = order.step_samples(steps, feed.batch, rank, workers)
    found: dict[str, np.ndarray] = {"step": steps}
    if feed.trim is None:
        rows = epoch_order(index, samples.ravel(), feed.seed).reshape(samples.shape)
    else:
        every, found["width"] = step_rows(feed, steps)
        share = feed.batch // workers
        rows = every[:, rank * share : (rank + 1) * share]
    stored = _viewed(feed, index, "train", ends, rows.ravel(), samples.ravel())
    if feed.beside is not None:
        stored |= _beside(feed.beside, rows.ravel())
    return found | {name: stored[name].reshape(*rows.shape, *stored[name].shape[1:]) for name in feed.delivered}


def _beside(beside: Beside, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What is stored apart of these training rows: {column: int32 (len(rows), width)}."""
    version = _version(beside.folder)
    index, ends = _index(beside.folder, version)
    known = _known(beside.folder, version)
    places = np.searchsorted(known, rows)
    if (np.append(known, -1)[places] != rows).any():
        raise RuntimeError(f"{beside.folder} does not hold all training rows that this step takes")
    return _take(beside.folder, index, "train", ends, places, beside.columns)


def step_rows(feed: Feed, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a feed that trims, the rows of these global batches, int64 (steps, batch), and their widths, int64 (steps,)."""
    assert feed.trim is not None
    samples, known = order.step_samples(steps, feed.batch, 0, 1), lengths(feed.shards, "train")
    if feed.trim.grouped:
        rows = grouping.rows_of(samples.ravel(), known, feed.batch, feed.seed)
    else:
        rows = order.rows_of(samples.ravel(), len(known), feed.seed)
    rows = rows.reshape(samples.shape)
    width = grouping.width_of(known[rows].max(axis=1), feed.trim.widths)
    # The first step is as wide as any: where memory does not suffice, a run says so at once.
    width[steps == 0] = feed.trim.widths[-1]
    return rows, width


def padding_share(feed: Feed) -> float:
    """Of the tokens that the steps of the first epoch work on, those that fill rows up; of a long epoch, the first 500."""
    known = lengths(feed.shards, "train")
    steps = np.arange(max(1, min(feed.steps, len(known) // feed.batch, 500)))
    rows, width = step_rows(feed, steps)
    return 1.0 - float(known[rows].sum()) / float(width.sum() * feed.batch)


def trimmed(feed: Feed, block: dict[str, np.ndarray], place: int) -> dict[str, np.ndarray]:
    """One step of what `read_steps` returned: {column: int32 (rows, ...)}, without the filling that all its rows share."""
    found = {name: block[name][place] for name in feed.delivered}
    if feed.trim is not None:
        width = int(block["width"][place])
        found |= {name: np.ascontiguousarray(found[name][:, :width]) for name in feed.trim.columns}
    return found


def lengths(folder: str, split: str) -> np.ndarray:
    """What each row of a split holds before it is filled up, int32 (rows,), of shards that say so."""
    return _lengths(folder, split, _version(folder))


@functools.lru_cache(maxsize=8)
def _lengths(folder: str, split: str, _version: str) -> np.ndarray:
    files = load_index(folder).splits[split]
    return np.concatenate([np.empty(0, np.int32), *(read_rows(Folder(folder), file.path, LENGTH) for file in files)])


@functools.lru_cache(maxsize=4)
def _known(folder: str, _version: str) -> np.ndarray:
    """The numbers of the rows that a folder beside shards holds, int64, ascending."""
    found: np.ndarray = to_numpy(read_table(Folder(folder), ROWS).column("row"))
    return found


@functools.lru_cache(maxsize=4)
def _index(folder: str, _version: str) -> tuple[Index, np.ndarray]:
    """The index of an artifact and where its training files end: read once a process, not once a block."""
    index = load_index(folder)
    return index, _ends(index.splits["train"])


def _version(folder: str) -> str:
    """What tells the index from one that is written in its place: size, time, inode; a store's tag."""
    from fsspec.core import url_to_fs

    filesystem, path = url_to_fs(f"{folder}/{INDEX}")
    filesystem.invalidate_cache(path)
    return str(filesystem.ukey(path)) if filesystem.exists(path) else ""  # an absent one is for `load_index` to refuse


# --- streaming -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One rank's part of a feed, from the step `start` on. Plain values: it travels to the rank's worker."""

    feed: Feed
    start: int
    rank: int
    workers: int
    seq_len: int

    def blocks(self) -> Iterator[tuple[int, int]]:
        """The steps as [start, end) blocks. The first holds one step, so that it comes soon; each is twice the last."""
        words = len(self.feed.columns) * self.seq_len + (self.feed.beside.words if self.feed.beside else 0)
        step_bytes = words * self.feed.batch // self.workers * 4
        most, size, start = max(1, BLOCK_BYTES // step_bytes), 1, self.start
        while start < self.feed.steps:
            yield start, min(start + size, self.feed.steps)
            start, size = start + size, min(2 * size, most)


class _Reader:
    """Turns a block's start and end into rows; a class, so that Ray pickles plain values."""

    def __init__(self, part: Part):
        self.part = part

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        steps = np.concatenate([np.arange(*ends) for ends in zip(block["start"], block["end"], strict=True)])
        return read_steps(self.part.feed, steps, self.part.rank, self.part.workers)


def dataset(part: Part, blocks: Sequence[tuple[int, int]]) -> Dataset:
    """These blocks of a part as a dataset of one record a step, in order; one task reads one block."""
    import ray.data

    found = ray.data.from_items([{"start": a, "end": b} for a, b in blocks], override_num_blocks=len(blocks))
    # A fraction of a CPU: the readers must be schedulable beside workers that hold every core.
    pool = ray.data.TaskPoolStrategy(size=READERS)
    found = found.map_batches(_Reader(part), batch_size=None, num_cpus=0.25, compute=pool)
    found.context.execution_options.preserve_order = True
    return found


class OrderedConfig(ray.train.DataConfig):
    """Gives each rank its own part, from the step at which this group of workers starts; `batches` reads it.

    `start` is asked once for every worker group, so after a failure the stream begins where the checkpoint stands.
    """

    def __init__(self, feed: Feed, seq_len: int, start: Callable[[], int]):
        super().__init__()
        self.feed, self.seq_len, self.start = feed, seq_len, start

    def configure(self, datasets: dict[str, Any], world_size: int, *_: Any, **__: Any) -> list[dict[str, Part | None]]:
        start = self.start()
        if start >= self.feed.steps:
            return [dict.fromkeys(datasets) for _ in range(world_size)]
        return [
            dict.fromkeys(datasets, Part(self.feed, start, rank, world_size, self.seq_len))
            for rank in range(world_size)
        ]


def batches(part: Part, columns: Sequence[str]) -> Generator[tuple[int, dict[str, np.ndarray]], None, None]:
    """Yield (step, {column: int32 (rows, ...)}) for each step of this rank, in order."""
    blocks = part.blocks()
    lead = list(itertools.islice(blocks, LEAD))
    # Ahead, so that a window is begun while the last blocks of the one before are used.
    with contextlib.closing(Ahead(_read(part, blocks), depth=2)) as rest:
        own = (read_steps(part.feed, np.arange(*ends), part.rank, part.workers) for ends in lead)
        for block in itertools.chain(own, rest):
            for place, step in enumerate(block["step"]):
                found = trimmed(part.feed, block, place)
                yield int(step), {name: found[name] for name in columns}


def _read(part: Part, blocks: Iterator[tuple[int, int]]) -> Iterator[dict[str, np.ndarray]]:
    """These blocks, read by Ray Data, a window of them at a time; without any of them it is not started."""
    while window := list(itertools.islice(blocks, WINDOW)):
        yield from dataset(part, window).iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0)


class Ahead:
    """Runs an iterator in a thread, a few items ahead, and counts how long its consumer waits.

    Made before the model is built, so that Ray Data's readers start while the worker is busy importing and building.
    """

    def __init__(self, items: Iterator[Any], depth: int = 4):
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=depth)
        self._closed = False
        self.waited = 0.0  # seconds, in all
        threading.Thread(target=self._fill, args=(items,), name="manta-stream", daemon=True).start()

    def _fill(self, items: Iterator[Any]) -> None:
        try:
            for item in items:
                self._queue.put(("item", item))
                if self._closed:
                    return
        except Exception as error:  # noqa: BLE001 - it is raised again where the item was wanted
            self._queue.put(("error", error))
        else:
            self._queue.put(("end", None))

    def close(self) -> None:
        """Let the thread end, though its items are not used up."""
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:  # a thread that waits for room finds it
                self._queue.get_nowait()

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
