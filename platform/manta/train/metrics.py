"""What a run measures: metrics.jsonl with each step exactly once, and the same figures for TensorBoard."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
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
    will be trained again.
    """

    def __init__(self, folder: Folder, keep_lines: int, step: int):
        from torch.utils.tensorboard import SummaryWriter

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
        self._file = self.path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(local / TENSORBOARD), purge_step=step + 1 if step else None, flush_secs=30)

    def add(self, kind: str, step: int, **figures: Any) -> None:
        """One line: `kind` is train, validation, memory or sample, `step` the number of steps trained so far."""
        # A number that is none has no place in JSON: other readers of the file would stop there.
        told = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in figures.items()}
        line = {"step": step, "kind": kind, **told}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self.lines += 1
        self.last[kind] = line
        for name, value in figures.items():
            if isinstance(value, str):
                self._board.add_text(f"{kind}/{name}", value, step)
            else:
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """Make the lines so far as durable as a checkpoint."""
        os.fsync(self._file.fileno())
        if self._scratch is not None:
            self.folder.write_text(FILE, self.path.read_text(encoding="utf-8"))

    def close(self) -> None:
        self.sync()
        self._file.close()
        self._board.close()
        if self._scratch is not None:
            with self.folder.staged(TENSORBOARD) as board:
                shutil.copytree(self.path.parent / TENSORBOARD, board, dirs_exist_ok=True)
            self._scratch.cleanup()
