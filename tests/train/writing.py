"""What tests of checkpoints write in the place of an engine's snapshot, and how they wait for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from manta.storage import Folder
from manta.train import checkpoint
from manta.train.writer import Task, Writer

ATTEMPT = 7


@dataclass
class Part:
    """One file of one rank; the first errors of `fails` are raised in the place of writing."""

    text: str = "weights"
    rank: int = 0
    fails: list[BaseException] = field(default_factory=list)
    written: int = 0

    @property
    def bytes(self) -> int:
        return len(self.text)

    def write(self, folder: Path) -> Iterator[tuple[str, int]]:
        if self.fails:
            raise self.fails.pop(0)
        self.written += 1
        path = folder / f"weights-{self.rank}.pt"
        path.write_text(self.text)
        yield path.name, len(self.text)


@dataclass
class Said:
    """What the user was told."""

    texts: list[str] = field(default_factory=list)

    def __call__(self, what: str, text: str) -> None:
        self.texts.append(text)


def state(step: int, workers: int = 1, zero_stage: int = 1) -> checkpoint.State:
    return checkpoint.State(step, workers, zero_stage, metrics_lines=step)


def writer(folder: Folder, rank: int = 0, keep: int = 2, attempt: int = ATTEMPT, said: Said | None = None) -> Writer:
    return Writer(folder, rank, attempt, keep, lambda: None, said or Said(), pauses=(0.01, 0.02))


def wait(one: Writer, seconds: float = 30.0) -> None:
    ends = time.monotonic() + seconds
    while one.busy:
        assert time.monotonic() < ends, "the writer does not come to an end"
        time.sleep(0.005)


def make(folder: Folder, step: int, keep: int = 2, part: Part | None = None, spared: int | None = None) -> Writer:
    """One checkpoint of one rank, from its beginning to its end."""
    (folder / checkpoint.PARENT).make()
    one = writer(folder, keep=keep)
    one.start(Task(state(step), part or Part(), spared))
    wait(one)
    return one
