"""Checkpoints of a run: checkpoints/step-00000100/ on the run's own storage, readable only when their marker stands.

Every rank writes its own part; when all have, rank 0 writes the marker (train.writer). What is kept beside DeepSpeed's
files is one small JSON file: the position of the stream follows from the step, and the random numbers of a step from
the seed and the step, so neither has any state of its own.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
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
    files: dict[str, int] = field(default_factory=dict)  # name -> bytes, of all ranks
    figures: dict[str, float] = field(default_factory=dict)  # how long it took: for metrics.jsonl


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def _names(folder: Folder) -> list[str]:
    """All checkpoints, finished or not, oldest first."""
    if folder.local_path is not None:
        return sorted(path.name for path in (folder.local_path / PARENT).glob("step-*/"))
    return sorted({match[1] for name in folder.files() if (match := _NAME.match(name))})


def newest(folder: Folder) -> State | None:
    """The newest checkpoint of the run in `folder` that is finished and whole, or None."""
    for name in reversed(_names(folder)):
        with contextlib.suppress(FileNotFoundError):
            state = _read(folder, name)
            if not _wrong_file(folder, name, state):
                return state
    return None


def at(folder: Folder, step: int) -> State:
    """The finished checkpoint of a step."""
    return _read(folder, name_of(step))


def _read(folder: Folder, name: str) -> State:
    return State(**json.loads(folder.read_text(f"{PARENT}/{name}/{STATE}")))


def _wrong_file(folder: Folder, name: str, state: State) -> str:
    """What is wrong with the first file that is not as it was written; nothing if all are."""
    for file, size in state.files.items():
        found = _size(folder / f"{PARENT}/{name}/{file}")
        if found != size:
            return f"{file} " + ("is missing" if found is None else f"has {found:,} bytes instead of {size:,}")
    return ""


def _size(file: Folder) -> int | None:
    """Bytes of a file, or None if there is none."""
    from fsspec.core import url_to_fs

    try:
        if file.local_path is not None:
            return file.local_path.stat().st_size
        filesystem, path = url_to_fs(file.url)
        filesystem.invalidate_cache()  # another rank may have written it since this process looked last
        return int(filesystem.info(path)["size"])
    except FileNotFoundError:
        return None


def newest_step(url: str) -> int:
    """The step at which a worker group that starts now carries on."""
    state = newest(Folder(url))
    return 0 if state is None else state.step


def tidy(folder: Folder) -> list[str]:
    """Remove what killed attempts left behind, and damaged checkpoints; returns what there is to tell of the latter.

    For rank 0, before the first step: nobody writes then.
    """
    (folder / PARENT).make()
    told = []
    for name in _names(folder):
        finished = folder.exists(f"{PARENT}/{name}/{STATE}")
        if wrong := _wrong_file(folder, name, _read(folder, name)) if finished else "":
            told.append(f"the checkpoint {name} is damaged and was removed: {wrong}")
        if wrong or not finished:
            _remove(folder, name)
    return told


def leave_part(folder: Folder, step: int, rank: int, attempt: int, files: dict[str, int]) -> None:
    """Say that a rank has stored its files (name -> bytes) of a checkpoint. `attempt` tells worker groups apart."""
    folder.write_text(_part(step, rank), json.dumps({"attempt": attempt, "files": files}))


def part(folder: Folder, step: int, rank: int, attempt: int) -> dict[str, int] | None:
    """What `leave_part` said in this attempt, or None as long as it has not."""
    try:
        said = json.loads(folder.read_text(_part(step, rank)))
    except FileNotFoundError:
        return None
    return dict(said["files"]) if said["attempt"] == attempt else None


def _part(step: int, rank: int) -> str:
    return f"{PARENT}/{name_of(step)}/part-{rank}.json"


def finish(folder: Folder, state: State) -> None:
    """Mark a checkpoint as whole once it is so. Raises OSError if a file lacks or has another size than was written."""
    if wrong := _wrong_file(folder, name_of(state.step), state):
        raise OSError(f"the checkpoint of step {state.step} is not whole where it was stored: {wrong}")
    folder.write_text(f"{PARENT}/{name_of(state.step)}/{STATE}", json.dumps(asdict(state)))
    for rank in range(state.workers):
        folder.clear(_part(state.step, rank))


def remove_old(folder: Folder, keep: int, spared: int | None = None) -> None:
    """Keep the newest `keep` finished checkpoints; remove older ones, and unfinished ones older than the newest."""
    names = [name for name in _names(folder) if spared is None or name != name_of(spared)]
    finished = [name for name in names if folder.exists(f"{PARENT}/{name}/{STATE}")]
    for name in names:
        if finished and name < finished[-1] and name not in finished[-keep:]:
            _remove(folder, name)


def _remove(folder: Folder, name: str) -> None:
    """The marker goes first: a removal that is killed half-way must not leave a checkpoint that looks whole."""
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
