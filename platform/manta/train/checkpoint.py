"""Checkpoints of a run: checkpoints/step-00000100/ on the run's own storage, readable only when their marker stands.

Every rank writes its own part; when all have, rank 0 writes the marker. What is kept beside DeepSpeed's files is one
small JSON file: the position of the stream follows from the step, and the random numbers of a step from the seed and
the step, so neither has any state of its own.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from manta.errors import InputError
from manta.storage import Folder

PARENT = "checkpoints"
STATE = "state.json"  # written last: the completion marker, and what the checkpoint holds
UNIVERSAL = "work/universal"
_NAME = re.compile(rf"^{PARENT}/(step-(\d{{8}}))/")


@dataclass(frozen=True)
class State:
    """What a checkpoint says of itself."""

    step: int  # steps trained
    workers: int
    zero_stage: int
    metrics_lines: int  # lines of metrics.jsonl that belong to it
    stability: dict[str, Any] | None = None  # of train.stability
    patience: dict[str, Any] | None = None  # of train.patience


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def _names(folder: Folder) -> list[str]:
    """All checkpoints, finished or not, oldest first."""
    if folder.local_path is not None:
        return sorted(path.name for path in (folder.local_path / PARENT).glob("step-*"))
    return sorted({match[1] for name in folder.files() if (match := _NAME.match(name))})


def newest(folder: Folder) -> State | None:
    """The newest finished checkpoint of the run in `folder`, or None."""
    for name in reversed(_names(folder)):
        with contextlib.suppress(FileNotFoundError):
            return State(**json.loads(folder.read_text(f"{PARENT}/{name}/{STATE}")))
    return None


def at(folder: Folder, step: int) -> State:
    """The finished checkpoint of a step."""
    return State(**json.loads(folder.read_text(f"{PARENT}/{name_of(step)}/{STATE}")))


def newest_step(url: str) -> int:
    """The step at which a worker group that starts now carries on."""
    state = newest(Folder(url))
    return 0 if state is None else state.step


def save(
    folder: Folder,
    state: State,
    write: Callable[[Path, str], None],
    rank: int,
    barrier: Callable[[], None],
    keep: int,
    spared: int | None = None,
) -> None:
    """Write one checkpoint. All ranks call it; `write(parent, tag)` writes this rank's part below parent/tag.

    Older checkpoints than the newest `keep` are removed once this one is finished, but for that of the step `spared`.
    """
    tag = name_of(state.step)
    if rank == 0:
        folder.clear(f"{PARENT}/{tag}")  # parts that a killed attempt left
        (folder / PARENT).make()
    barrier()
    if folder.local_path is not None:
        write(folder.local_path / PARENT, tag)
    else:
        _upload(folder, tag, write)
    barrier()
    if rank == 0:
        folder.write_text(f"{PARENT}/{tag}/{STATE}", json.dumps(asdict(state)))
        remove_old(folder, keep, spared)


def _upload(folder: Folder, tag: str, write: Callable[[Path, str], None]) -> None:
    import tempfile

    from fsspec.core import url_to_fs

    with tempfile.TemporaryDirectory(prefix="manta-") as scratch:
        write(Path(scratch), tag)
        filesystem, target = url_to_fs(f"{folder.url}/{PARENT}/{tag}")
        for path in sorted(Path(scratch, tag).rglob("*")):
            if path.is_file():
                filesystem.put_file(str(path), f"{target}/{path.relative_to(Path(scratch, tag))}")


def remove_old(folder: Folder, keep: int, spared: int | None = None) -> None:
    """Keep the newest `keep` finished checkpoints; remove older ones, and unfinished ones older than the newest."""
    names = [name for name in _names(folder) if spared is None or name != name_of(spared)]
    finished = [name for name in names if folder.exists(f"{PARENT}/{name}/{STATE}")]
    for name in names:
        if finished and name < finished[-1] and name not in finished[-keep:]:
            # The marker goes first: a removal that is killed half-way must not leave a checkpoint that looks whole.
            folder.clear(f"{PARENT}/{name}/{STATE}")
            folder.clear(f"{PARENT}/{name}")


def needs_conversion(state: State, workers: int, zero_stage: int) -> bool:
    """Whether the optimizer's state is shared out differently from how this group of workers wants it.

    Raises InputError for the one change that cannot be converted: from or to ZeRO stage 0.
    """
    if (state.workers, state.zero_stage) == (workers, zero_stage) or state.zero_stage == zero_stage == 0:
        return False
    if 0 in (state.zero_stage, zero_stage):
        raise InputError(
            f"resources.zero_stage = {zero_stage}: the checkpoint of step {state.step} was written with stage {state.zero_stage}, and stage 0 "
            f"converts to no other: set resources.zero_stage={state.zero_stage}"
        )
    return True


@contextlib.contextmanager
def opened(
    folder: Folder,
    state: State,
    universal: bool,
    convert: Callable[[Path, Path], Any],
    rank: int,
    barrier: Callable[[], None],
) -> Iterator[tuple[Path, str]]:
    """Yield (parent, tag) of a local copy of a checkpoint, as `Engine.load` wants it; converted first if `universal`."""
    tag = name_of(state.step)
    where = f"{PARENT}/{tag}"
    if universal:
        where = f"{UNIVERSAL}/{tag}"
        if rank == 0 and not folder.exists(where):
            with folder.local(f"{PARENT}/{tag}") as source, folder.staged(where) as target:
                convert(source, target)
        barrier()
    with folder.local(where) as path:
        if path.name == tag:
            yield path.parent, tag
        else:  # a temporary copy has a name of its own
            yield path.parent, path.name
    barrier()
    if universal and rank == 0:
        folder.clear(UNIVERSAL)
