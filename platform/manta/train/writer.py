"""A thread of each rank that writes the rank's part of a checkpoint while training goes on, and does not give up."""

from __future__ import annotations

import errno
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from manta.errors import StageFailed
from manta.storage import Folder
from manta.train import checkpoint

PAUSES = (1.0, 60.0)  # seconds between attempts: the first, doubled each time up to the last
POLL = 0.05  # seconds between looks at whether the others have stored their parts
# What no waiting mends. All else that a store may do (be full, not there, too slow) is tried again.
FINAL = (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
# Of us, not of a store. Stores that are no disks raise errors of their own kinds, which have nothing in common.
BUGS = (TypeError, AttributeError, NameError, LookupError, ValueError, ArithmeticError, AssertionError, RuntimeError)
FULL = (errno.ENOSPC, errno.EDQUOT)


class Writes(Protocol):
    """A rank's part of a checkpoint: train.snapshot.Snapshot."""

    @property
    def bytes(self) -> int: ...

    def write(self, folder: Path) -> Any: ...


@dataclass(frozen=True)
class Task:
    """One checkpoint to be written: its state so far, this rank's part, and the step whose checkpoint must stay."""

    state: checkpoint.State
    part: Writes
    spared: int | None = None


class Writer:
    """At most one checkpoint at a time. Ranks meet in the store alone, so no collective runs outside the training thread.

    Each rank stores its files and says so in a file of its own; rank 0 waits for all of these, sees to it that every
    file is there and has its size, makes the metrics durable, writes the marker, and removes older checkpoints.
    """

    def __init__(
        self,
        folder: Folder,
        rank: int,
        attempt: int,
        keep: int,
        sync: Callable[[], None],
        tell: Callable[[str, str], None],
        pauses: tuple[float, float] = PAUSES,
    ):
        """`attempt`: a number that worker groups do not share. `sync()` makes the metrics durable. `tell(what, text)`
        speaks to the user, once for each `what` whatever the number of ranks that say it."""
        self.folder, self.rank, self.attempt, self.keep = folder, rank, attempt, keep
        self.sync, self.tell, self.pauses = sync, tell, pauses
        self.error: BaseException | None = None  # why the task at hand will never be finished
        self.troubled = False  # whether it is being tried again
        self.moves = 0  # grows with each file and each attempt: a writer whose number stands still hangs
        self.done: list[checkpoint.State] = []  # finished checkpoints, on rank 0, until they are taken out
        self._task: Task | None = None

    @property
    def busy(self) -> bool:
        return self._task is not None and self.error is None

    def start(self, task: Task) -> None:
        """Begin to write; returns at once. The one before must be finished."""
        assert not self.busy
        self._task = task
        threading.Thread(target=self._run, args=(task,), name="manta-checkpoint", daemon=True).start()

    def _run(self, task: Task) -> None:
        began, stored = time.monotonic(), dict[str, int]()
        acts: list[Callable[[], None]] = [lambda: self._store(task, stored), lambda: self._say(task, stored)]
        if self.rank == 0:
            acts.append(lambda: self._finish(task, began))
        try:
            for act in acts:
                self._insist(act, task)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the training thread
            self.error = error
        else:
            self._task = None

    def _insist(self, act: Callable[[], None], task: Task) -> None:
        """Do it, again and again while the store is at fault. Raises StageFailed when that is of no use."""
        pause, longest = self.pauses
        while True:
            self.moves += 1
            try:
                act()
            except BUGS:
                raise
            except Exception as error:  # see BUGS
                number = getattr(error, "errno", None)
                if isinstance(error, FINAL) or number == errno.EROFS:
                    raise StageFailed(self._final(error, task)) from error
                if not self.troubled:
                    self.troubled = True
                    self.tell(f"{task.state.step} {number}", self._trouble(error, task))
                time.sleep(pause)
                pause = min(2 * pause, longest)
            else:
                self.troubled = False
                return

    def _store(self, task: Task, stored: dict[str, int]) -> None:
        """Put this rank's files where they belong; `stored` gets the name and size of each."""
        tag = checkpoint.name_of(task.state.step)
        if self.folder.local_path is not None:
            place = self.folder.local_path / checkpoint.PARENT / tag
            place.mkdir(exist_ok=True)  # without parents: a folder that vanished is an error, not a new beginning
            for name, size in task.part.write(place):
                stored[name] = size
                self.moves += 1
            return
        with tempfile.TemporaryDirectory(prefix="manta-") as scratch:
            for name, size in task.part.write(Path(scratch)):
                _upload(Path(scratch, name), f"{self.folder.url}/{checkpoint.PARENT}/{tag}/{name}")
                Path(scratch, name).unlink()
                stored[name] = size
                self.moves += 1

    def _say(self, task: Task, stored: dict[str, int]) -> None:
        checkpoint.leave_part(self.folder, task.state.step, self.rank, self.attempt, stored)

    def _finish(self, task: Task, began: float) -> None:
        state, files = task.state, dict[str, int]()
        for rank in range(state.workers):
            while (part := checkpoint.part(self.folder, state.step, rank, self.attempt)) is None:
                time.sleep(POLL)
                self.moves += 1  # a rank that hangs is noticed by its own watchdog
            files |= part
        self.sync()
        took = {"write_s": round(time.monotonic() - began, 3), "bytes": sum(files.values())}
        whole = replace(state, files=files, figures={**state.figures, **took})
        checkpoint.finish(self.folder, whole)
        checkpoint.remove_old(self.folder, self.keep, task.spared)
        self.done.append(whole)

    def _trouble(self, error: Exception, task: Task) -> str:
        why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        what = f"the checkpoint of step {task.state.step} could not be written to {self.folder.url}: {why}"
        if getattr(error, "errno", None) in FULL:
            what += f" ({task.part.bytes / 1e6:,.0f} MB are needed{self._free()})"
        return f"{what}; training goes on until the next checkpoint and waits then, while this one is tried again"

    def _free(self) -> str:
        if self.folder.local_path is None:
            return ""
        return f", {shutil.disk_usage(self.folder.local_path).free / 1e6:,.0f} MB are free"

    def _final(self, error: Exception, task: Task) -> str:
        return (
            f"the checkpoint of step {task.state.step} cannot be written to {self.folder.url}: {error}: let this user write there, "
            f"then `manta resume {self.folder.url}` carries on from the checkpoint before"
        )


def _upload(file: Path, url: str) -> None:
    from fsspec.core import url_to_fs

    filesystem, target = url_to_fs(url)
    filesystem.put_file(str(file), target)
