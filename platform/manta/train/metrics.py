"""What a run measures: metrics.jsonl with each step exactly once, and the same figures for TensorBoard."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manta.storage import Folder

FILE = "metrics.jsonl"
TENSORBOARD = "tensorboard"


def read(folder: Folder) -> list[dict[str, Any]]:
    """All lines of a run's metrics.jsonl; a last line that was cut off is left out."""
    try:
        text = folder.read_text(FILE)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


class Metrics:
    """The writer, on rank 0. Lines are flushed as they come; a remote file is uploaded with each checkpoint.

    `keep_lines` is the checkpoint's position: what an earlier attempt wrote beyond it is cut off, since those steps
    will be trained again. Where the disk is full, lines wait in memory for room; TensorBoard goes without until then.
    """

    def __init__(self, folder: Folder, keep_lines: int, step: int):
        self.folder = folder
        kept = read(folder)[:keep_lines]
        if len(kept) < keep_lines:
            raise RuntimeError(
                f"{folder.url}/{FILE} has {len(kept)} lines, the checkpoint of step {step} was written after {keep_lines}"
            )
        self._scratch = None if folder.local_path is not None else tempfile.TemporaryDirectory(prefix="manta-")
        local = folder.local_path if self._scratch is None else Path(self._scratch.name)
        assert local is not None
        self.path = local / FILE
        scratch = self.path.with_suffix(f".{os.getpid()}.tmp")
        scratch.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        scratch.replace(self.path)
        self.lines = len(kept)
        self.last = {line["kind"]: line for line in kept}  # kind -> its newest line
        self._file = self.path.open("ab", buffering=0)
        self._unwritten = b""
        self._lock = threading.Lock()  # a checkpoint's thread makes durable what the training thread writes
        self._purge = step + 1 if step else None
        self._board: Any = self._new_board()

    def _new_board(self) -> Any:
        """A TensorBoard writer, or None on a full disk. The first one hides what an earlier attempt showed."""
        from torch.utils.tensorboard import SummaryWriter

        purge, self._purge = self._purge, None
        with _full_disk_allowed():
            return SummaryWriter(str(self.path.parent / TENSORBOARD), purge_step=purge, flush_secs=30)
        return None

    def add(self, kind: str, step: int, **figures: Any) -> None:
        """One line: `kind` is start, train, validation, memory, sample or checkpoint, `step` the steps trained so far."""
        # A number that is none has no place in JSON: other readers of the file would stop there.
        told = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in figures.items()}
        line = {"step": step, "kind": kind, **told}
        self.lines += 1
        self.last[kind] = line
        with _full_disk_allowed():
            self._write((json.dumps(line) + "\n").encode())
            self._show(kind, step, figures)

    def _write(self, text: bytes = b"") -> None:
        with self._lock:
            self._unwritten += text
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def _show(self, kind: str, step: int, figures: dict[str, Any]) -> None:
        """The same for TensorBoard, whose writer is of no more use once it met a full disk."""
        self._board, board = None, self._board or self._new_board()
        if board is None:
            return
        for name, value in figures.items():
            if isinstance(value, str) and kind == "train":
                continue  # the stream of a step: its loss stands under its name
            elif isinstance(value, str):
                board.add_text(f"{kind}/{name}", value, step)
            else:
                board.add_scalar(f"{kind}/{name}", value, step)
        self._board = board

    def sync(self) -> None:
        """Make the lines so far as durable as a checkpoint; also from another thread. Raises OSError on a full disk."""
        self._write()
        os.fsync(self._file.fileno())
        if self._scratch is not None:
            self.folder.write_text(FILE, self.path.read_text(encoding="utf-8"))

    def close(self) -> None:
        self.sync()
        self._file.close()
        if self._board is not None:
            with _full_disk_allowed():
                self._board.close()
        if self._scratch is not None:
            with self.folder.staged(TENSORBOARD) as board:
                shutil.copytree(self.path.parent / TENSORBOARD, board, dirs_exist_ok=True)
            self._scratch.cleanup()


@contextlib.contextmanager
def _full_disk_allowed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
