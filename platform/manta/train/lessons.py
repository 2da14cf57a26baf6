"""What a teacher says of training rows, computed once before training and stored.

So training holds no second model and asks nothing twice: of each training row that the planned steps visit, once however
many epochs there are, the k likeliest tokens of each place. They do not depend on who computes them: each is computed in a
batch that follows from its row's place among the visited ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manta import isolate, kernels
from manta.data.shards import INDEX, Index, Shard, load_index, read_table, save_index, to_numpy, write_table
from manta.data.stream import ROWS, Beside, Feed, epoch_order, take
from manta.models import load
from manta.objectives.stored import COLUMN
from manta.progress import Progress
from manta.sections.objective import Distillation
from manta.storage import Folder
from manta.train import checkpoint, teacher

if TYPE_CHECKING:
    import numpy as np

    from manta.train.job import Job

SLICE_BYTES = 32 << 20  # of rows that are computed and stored in one piece: what is done is not done again
TOKENS_AT_ONCE = 1024  # that go through the teacher together; whole rows
PROCESS_BYTES = 2 << 30  # of a process beside the weights: the libraries, a batch's logits
SAMPLES_AT_ONCE = 2**22  # whose rows are looked up together


@dataclass(frozen=True)
class Lesson:
    """What a process of the pass is told. Plain values."""

    folder: str  # where the pieces go, with ROWS in it
    shards: str
    columns: tuple[str, ...]  # that the teacher reads
    model: str  # Hugging Face directory of the teacher
    top_k: int
    temperature: float
    vocab: int  # tokens that the student's output has
    words: int  # int32 of a row
    precision: str
    gpu: bool


def store(job: Job, progress: Progress) -> None:
    """Compute and store what the teacher says of the rows that the job's steps visit, as `job.feed.beside` wants it.

    As many processes as there will be workers compute it; they end before training starts. Those pieces that an earlier
    attempt has left are used. Does nothing where all is there, or none is wanted, be it since training is over.
    """
    found, objective = job.feed.beside, job.objective
    if found is None or not isinstance(objective, Distillation) or checkpoint.newest_step(job.folder) >= job.steps:
        return
    folder = Folder(found.folder)
    with folder.locked():
        if folder.exists(INDEX):
            return
        rows = visited(job.feed)
        _write_rows(folder, rows)
        pieces = _pieces(len(rows), found.words)
        if left := [first for first in pieces if not folder.exists(_file(first))]:
            progress.note(
                f"asking the teacher for the likeliest tokens of {len(rows):,} rows, {4 * len(rows) * found.words / 2**20:,.0f} MiB "
                "at most"
            )
            _compute(job, _lesson(job, found, objective), left)
        index, step = load_index(job.feed.shards), _step(found.words)
        shards = [_shard(folder, first, min(step, len(rows) - first)) for first in pieces]
        ids = (index.seq_len, index.vocab_size, index.eos_id, index.bos_id, index.pad_id)
        save_index(folder, Index(*ids, {"train": tuple(shards)}, columns=found.columns))


def _lesson(job: Job, found: Beside, objective: Distillation) -> Lesson:
    assert job.teacher is not None
    return Lesson(
        folder=found.folder,
        shards=job.feed.shards,
        columns=job.feed.columns,
        model=job.teacher,
        top_k=objective.likeliest,
        temperature=objective.temperature,
        vocab=teacher.vocab(job),
        words=found.words,
        precision=job.recipe.optimizer.precision,
        gpu=job.recipe.resources.gpus_per_worker > 0,
    )


def _compute(job: Job, lesson: Lesson, left: Sequence[int]) -> None:
    resources = job.recipe.resources
    shares = [left[number :: resources.workers] for number in range(min(resources.workers, len(left)))]
    calls = [
        isolate.Call(
            measure,
            (lesson, share, job.mailbox),
            cpus=resources.cpus_per_worker,
            memory=PROCESS_BYTES + 2 * Folder(lesson.model).size(),
            gpus=resources.gpus_per_worker,
        )
        for share in shares
    ]
    isolate.run(calls, f"asking the teacher of {job.recipe.name} before training")


def measure(lesson: Lesson, pieces: Sequence[int], mailbox: Any) -> None:
    """Compute the pieces that begin with these places of the visited rows, and leave each as a file."""
    import pyarrow as pa

    if not lesson.gpu:
        kernels.keep()
    folder, index = Folder(lesson.folder), load_index(lesson.shards)
    rows = to_numpy(read_table(folder, ROWS).column("row"))
    with Folder(lesson.model).local() as path:
        model = load.load(path, lesson.precision, "distillation").eval().to("cuda" if lesson.gpu else "cpu")
    step = _step(lesson.words)
    for first in pieces:
        columns = take(lesson.shards, index, "train", rows[first : first + step], lesson.columns)
        found = of_rows(model, columns, lesson)
        values = pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), lesson.words)
        # A row group a row: each is read by itself, in the order of training.
        write_table(folder, _file(first), pa.table({COLUMN: values}), row_group_size=1)
        if mailbox is not None:
            done = sum(step for name in folder.files() if name.startswith("train/"))
            mailbox.put.remote({"update": {"done": min(done, len(rows)), "total": len(rows), "unit": "rows asked"}})


def of_rows(model: Any, columns: Mapping[str, np.ndarray], lesson: Lesson) -> np.ndarray:
    """The likeliest tokens of each place, packed, int32 (rows, words of a row), by `model` without dropout.

    `columns` are those that a step trains on, int32 (rows, seq). Batches begin with the first row.
    """
    import numpy as np
    import torch

    from manta.objectives.clm import shifted
    from manta.objectives.stored import likeliest, pack

    device, ids = next(model.parameters()).device, columns["input_ids"]
    at_once, found = max(1, TOKENS_AT_ONCE // ids.shape[1]), []
    for first in range(0, len(ids), at_once):
        batch = {name: torch.from_numpy(values[first : first + at_once]).to(device) for name, values in columns.items()}
        with torch.inference_mode():
            for logits in model(**shifted(batch)[0], use_cache=False).logits:  # (seq, vocab)
                told = likeliest(logits, lesson.top_k, lesson.temperature, lesson.vocab)
                found.append(pack(*told, lesson.vocab).reshape(-1).cpu().numpy())
    return np.stack(found)


def visited(feed: Feed) -> np.ndarray:
    """The training rows that a feed's steps take, each once, in the order of their numbers: int64."""
    import numpy as np

    index, total = load_index(feed.shards), feed.steps * feed.batch
    if not index.mixture and total >= index.rows("train"):
        return np.arange(index.rows("train"))
    parts = [
        np.unique(epoch_order(index, np.arange(first, min(first + SAMPLES_AT_ONCE, total)), feed.seed))
        for first in range(0, total, SAMPLES_AT_ONCE)
    ]
    return np.unique(np.concatenate(parts))


def _write_rows(folder: Folder, rows: np.ndarray) -> None:
    import pyarrow as pa

    write_table(folder, ROWS, pa.table({"row": pa.array(rows)}))


def _step(words_of_row: int) -> int:
    """Rows of a piece."""
    return max(1, SLICE_BYTES // (4 * words_of_row))


def _pieces(rows: int, words_of_row: int) -> list[int]:
    """The place of the first row of each piece."""
    return list(range(0, rows, _step(words_of_row)))


def _file(first: int) -> str:
    return f"train/{first:012d}.parquet"


def _shard(folder: Folder, first: int, rows: int) -> Shard:
    from fsspec.core import url_to_fs

    path = _file(first)
    filesystem, where = url_to_fs(f"{folder.url}/{path}")
    return Shard(path, rows, 0, int(filesystem.size(where)), folder.file_sha256(path))
