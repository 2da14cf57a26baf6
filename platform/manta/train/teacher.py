"""The teacher of a distillation: its likeliest tokens, computed once before training and stored, or the model at hand.

Stored, so that training holds no second model and asks nothing twice: of each training row that the planned steps visit,
once however many epochs there are, the k likeliest tokens of each place. They do not depend on who computes them: each is
computed in a batch that follows from its row's place among the visited ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from manta import isolate
from manta import recipe as recipes
from manta.artifact import Draft, Resolved
from manta.data.shards import INDEX, Index, Shard, load_index, read_table, save_index, to_numpy, write_table
from manta.data.stream import ROWS, Beside, Feed, epoch_order, take
from manta.errors import InputError
from manta.models import classes, formulas, load
from manta.objectives.stored import COLUMN, words
from manta.progress import Progress
from manta.schema import FinetuneRecipe, PretrainRecipe
from manta.sections.objective import Distillation, Taught
from manta.storage import Folder
from manta.train.mixed import vocabulary

if TYPE_CHECKING:
    import numpy as np

    from manta.train.job import Job

FOLDER = "work/teacher"  # below the run's own
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


def taught(recipe: PretrainRecipe | FinetuneRecipe) -> tuple[str, Taught] | None:
    """Where a recipe names a teacher, and what it says of the teaching; None where there is none."""
    if isinstance(recipe, FinetuneRecipe):
        return None
    return ("objective", recipe.objective) if isinstance(recipe.objective, Distillation) else None


def check(
    recipe: PretrainRecipe | FinetuneRecipe,
    inputs: Mapping[str, Resolved],
    student: Mapping[str, Any],
    tokenizer: Folder,
    seq_len: int,
) -> None:
    """Raise InputError for a teacher that does not read rows of `seq_len` tokens of this tokenizer, or has no such states.

    `student` is the content of the config.json of what is taught.
    """
    found = taught(recipe)
    if found is None:
        return
    path, settings = found
    teacher = inputs[f"{path}.teacher"]
    config, told = load.model_config(load.model_url(teacher)), f"{path}.teacher = {settings.teacher!r}"
    if (kind := classes.kind(config)) != "decoder":
        raise InputError(
            f"{told} is of type {config['model_type']!r}, an {kind.replace('_', '-')}, and only decoders can be learnt from: name "
            "a decoder, such as one of type llama or gpt2"
        )
    own, read = (vocabulary(folder) for folder in (Folder(load.model_url(teacher)), tokenizer))
    if own is not None and read is not None and own != read:
        raise InputError(
            f"{told} has another tokenizer than the rows, so that its probabilities are of other tokens: name a teacher with the same "
            "tokenizer; a student whose vocabulary was trimmed has to be taught before it is trimmed"
        )
    positions = formulas.max_positions(config)
    if positions is not None and seq_len > positions:
        raise InputError(
            f"{told} reads rows of at most {positions} tokens, and these have {seq_len}: prepare rows with a lower data.seq_len"
        )
    if settings.hidden is not None and "lstm" in (config["model_type"], student["model_type"]):
        raise InputError(
            f"{path}.hidden compares the blocks of two transformers, and one of these models is an lstm: set {path}.hidden=null"
        )


# --- a teacher at hand -----------------------------------------------------------------------------------------------


def at_hand(job: Job) -> Any:
    """The teacher of a job that asks it in each step, on this worker's device; None of any other job."""
    if not isinstance(job.objective, Distillation) or job.objective.teacher_mode != "live":
        return None
    assert job.teacher is not None
    with Folder(job.teacher).local() as path:
        model = load.load(path, job.recipe.optimizer.precision, "distillation")
    model.requires_grad_(False)
    return model.eval().to("cuda" if job.recipe.resources.gpus_per_worker else "cpu")


def width(job: Job) -> int | None:
    """Of the teacher's states, where they are compared."""
    if not isinstance(job.objective, Distillation) or job.objective.hidden is None:
        return None
    assert job.teacher is not None
    return formulas.shape(load.model_config(job.teacher)).main.width


# --- what is stored --------------------------------------------------------------------------------------------------


def joined(job: Job, draft: Draft) -> Job:
    """The job with its teacher, if it has one, and its feed with the column that `store` computes.

    That is stored below the run's folder, or where a sweep's runs share it.
    """
    if (named := taught(job.recipe)) is None:
        return job
    job, objective = replace(job, teacher=load.model_url(draft.inputs[f"{named[0]}.teacher"])), job.objective
    if not isinstance(objective, Distillation) or objective.teacher_mode == "live":
        return job
    place = draft.folder / FOLDER
    if job.marks is not None:
        place = Folder(job.marks.shared) / _name(job, draft.inputs)
    vocab = _vocab(job)
    top_k = min(objective.likeliest, vocab, int(load.model_config(job.teacher or "")["vocab_size"]))
    found = Beside(place.url, (COLUMN,), load_index(job.feed.shards).seq_len * words(top_k, vocab))
    return replace(job, feed=replace(job.feed, beside=found))


def _vocab(job: Job) -> int:
    """Tokens that the student's output has."""
    return int((job.config or load.model_config(job.source or ""))["vocab_size"])


def _name(job: Job, inputs: Mapping[str, Resolved]) -> str:
    """A name for all that decides what is stored."""
    recipe = job.recipe
    assert isinstance(recipe, PretrainRecipe)
    assert isinstance(recipe.objective, Distillation)
    decides: dict[str, Any] = {
        "inputs": {role: inputs[role].content for role in ("data.shards", "objective.teacher")},
        "vocab": _vocab(job),
        "seed": recipe.seed,
        "samples": job.feed.steps * job.feed.batch,
        "temperature": recipe.objective.temperature,
        "top_k": recipe.objective.likeliest,
        "precision": recipe.optimizer.precision,
    }
    return recipes.digest(decides)[:16]


def store(job: Job, progress: Progress) -> None:
    """Compute and store what the teacher says of the rows that the job's steps visit, as `job.feed.beside` wants it.

    As many processes as there will be workers compute it; they end before training starts. Those pieces that an earlier
    attempt has left are used. Does nothing where all is there, or none is wanted.
    """
    found, objective = job.feed.beside, job.objective
    if found is None or not isinstance(objective, Distillation):
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
        vocab=_vocab(job),
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
    path = _file(first)
    return Shard(path, rows, 0, (folder / path).size(), folder.file_sha256(path))
