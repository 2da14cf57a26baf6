"""The teacher's work in parts: each is written by one of its copies, stored when it is whole, and never done again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from manta import cluster
from manta.artifact import Resolved
from manta.data.shards import read_table, write_table
from manta.evaluate import copies, engines
from manta.evaluate.engines import Sampling
from manta.generate.judging import Answer
from manta.generate.prompts import Prompt, seed_of
from manta.progress import Progress
from manta.schema import GenerateRecipe
from manta.storage import Folder

PART = (
    64  # answers that are written together. Which these are decides their last bits, so it never depends on who writes
)
FOLDER = "work/answers"


class Ask(NamedTuple):
    """One answer that is wanted."""

    ids: list[int]
    limit: int
    seed: int


def asks(recipe: GenerateRecipe, prompts: Sequence[Prompt]) -> list[Ask]:
    """Each question as often as it is to be answered; those that have no room for an answer are left out."""
    many = range(recipe.generate.samples)
    return [Ask(*prompt, seed_of(recipe.seed, prompt.ids, one)) for prompt in prompts if prompt.limit for one in many]


def write(
    recipe: GenerateRecipe, source: Resolved, wanted: Sequence[Ask], folder: Folder, progress: Progress
) -> tuple[list[Answer], float]:
    """The answers in order, and the seconds that copies spent on them, loading aside. What is there already is not asked again."""
    parts = [(first // PART, list(wanted[first : first + PART])) for first in range(0, len(wanted), PART)]
    if left := [part for part in parts if not folder.exists(_file(part[0]))]:
        if len(left) < len(parts):
            progress.note(f"{len(parts) - len(left)} of {len(parts)} parts were written before")
        _ask(recipe, source, left, len(wanted), folder, progress)
    answers: list[Answer] = []
    seconds = 0.0
    for number, _ in parts:
        table = read_table(folder, _file(number))
        answers += map(Answer, table.column("ids").to_pylist(), table.column("ended").to_pylist())
        seconds += table.column("seconds")[0].as_py()
    return answers, seconds


def _ask(
    recipe: GenerateRecipe, source: Resolved, parts: list[Any], total: int, folder: Folder, progress: Progress
) -> None:
    resources = recipe.resources
    cluster.connect(resources.address, resources.cpus)
    cluster.check_fits(resources.workers, max(1, resources.cpus // resources.workers), 0)
    longest = max(len(ask.ids) + ask.limit for _, some in parts for ask in some)
    with cluster.relay(progress) as mailbox:
        arguments = (recipe, source, longest, folder, total, mailbox)
        copies.spread(copies.of(recipe, source), Teacher, arguments, parts)


class Teacher:
    """A copy of the teacher, in a process of its own: writes parts and stores each."""

    def __init__(
        self, recipe: GenerateRecipe, source: Resolved, longest: int, folder: Folder, total: int, mailbox: Any
    ):
        from manta.models.load import model_folder

        settings = recipe.generate
        how = Sampling(settings.temperature, settings.top_p, getattr(recipe.task, "beams", 1))
        self.held = model_folder(source)
        self.author = engines.author(settings.engine, self.held.__enter__(), settings.dtype, longest, how)
        self.folder, self.total, self.mailbox = folder, total, mailbox

    def __call__(self, parts: Sequence[tuple[int, list[Ask]]]) -> list[int]:
        return [self.part(number, some) for number, some in parts]

    def part(self, number: int, some: Sequence[Ask]) -> int:
        """Write and store one part, unless a copy that died had done so; returns its tokens."""
        if self.folder.exists(_file(number)):
            return 0
        started = time.perf_counter()
        answers = self.author(*map(list, zip(*some, strict=True)))
        seconds, tokens = time.perf_counter() - started, sum(len(ids) for ids, _ in answers)
        _store(self.folder, number, [Answer(*answer) for answer in answers], seconds)
        done = min(self.total, PART * sum(name.startswith(f"{FOLDER}/") for name in self.folder.files()))
        told = {"done": done, "total": self.total, "unit": "answers written", "tokens_per_s": tokens / seconds}
        self.mailbox.put.remote({"update": told})
        return tokens


def _store(folder: Folder, number: int, answers: Sequence[Answer], seconds: float) -> None:
    import pyarrow as pa

    columns = {
        "ids": pa.array([answer.ids for answer in answers], type=pa.list_(pa.int32())),
        "ended": pa.array([answer.ended for answer in answers], type=pa.bool_()),
        "seconds": pa.array([seconds] * len(answers), type=pa.float64()),
    }
    write_table(folder, _file(number), pa.table(columns))


def _file(number: int) -> str:
    return f"{FOLDER}/{number:08d}.parquet"
