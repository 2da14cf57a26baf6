"""Checkpoint folders: whole or not there, the newest found, old ones gone."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from manta.errors import InputError
from manta.storage import Folder
from manta.train.checkpoint import STATE, State, needs_conversion, newest, newest_step, opened, remove_old, save


def state(step: int, workers: int = 1, zero_stage: int = 1) -> State:
    return State(step, workers, zero_stage, metrics_lines=step)


def write(parent: Path, tag: str) -> None:
    (parent / tag).mkdir(parents=True, exist_ok=True)
    (parent / tag / "part-0.pt").write_text(tag)


def write_then_die(parent: Path, tag: str) -> None:
    write(parent, tag)
    raise KeyboardInterrupt


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    """A run's folder on this disk, and one on a store that is none."""
    made = Folder(tmp_path if request.param == "local" else f"memory://{uuid.uuid4().hex}")
    yield made
    made.clear()


def make(folder: Folder, step: int, keep: int = 2, writer=write) -> None:
    save(folder, state(step), writer, rank=0, barrier=lambda: None, keep=keep)


def test_newest_is_the_last_finished_one(folder: Folder) -> None:
    assert newest(folder) is None
    assert newest_step(folder.url) == 0
    for step in (5, 10):
        make(folder, step)
    with pytest.raises(KeyboardInterrupt):
        make(folder, 15, writer=write_then_die)
    assert newest(folder) == state(10)
    assert newest_step(folder.url) == 10


def test_a_torn_checkpoint_is_written_anew(folder: Folder) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(folder, 5, writer=write_then_die)
    folder.write_text("checkpoints/step-00000005/stale.pt", "of the attempt that died")
    make(folder, 5)
    assert [name for name in folder.files() if "step-00000005" in name] == [
        "checkpoints/step-00000005/part-0.pt",
        f"checkpoints/step-00000005/{STATE}",
    ]


def test_only_the_newest_are_kept(folder: Folder) -> None:
    for step in (5, 10, 15, 20):
        make(folder, step, keep=2)
    assert {name.split("/")[1] for name in folder.files()} == {"step-00000015", "step-00000020"}


def test_a_removal_that_was_killed_leaves_nothing_that_looks_whole(folder: Folder) -> None:
    for step in (5, 10):
        make(folder, step)
    folder.clear(f"checkpoints/step-00000005/{STATE}")  # as far as the removal came
    remove_old(folder, keep=2)
    assert {name.split("/")[1] for name in folder.files()} == {"step-00000010"}


def test_opening_gives_a_local_copy(folder: Folder) -> None:
    make(folder, 5)
    with opened(folder, state(5), False, lambda *_: None, 0, lambda: None) as (parent, tag):
        assert (parent / tag / "part-0.pt").read_text() == "step-00000005"


def test_conversion_happens_once_and_leaves_nothing(folder: Folder) -> None:
    make(folder, 5)

    def convert(source: Path, target: Path) -> None:
        (target / "whole.pt").write_text((source / "part-0.pt").read_text() + " converted")

    with opened(folder, state(5), True, convert, 0, lambda: None) as (parent, tag):
        assert (parent / tag / "whole.pt").read_text() == "step-00000005 converted"
    assert not [name for name in folder.files() if name.startswith("work/")]


def test_when_to_convert() -> None:
    assert not needs_conversion(state(5, workers=2), 2, 1)
    assert needs_conversion(state(5, workers=2), 1, 1)
    assert needs_conversion(state(5, workers=2), 2, 3)
    assert not needs_conversion(state(5, workers=2, zero_stage=0), 1, 0)


@pytest.mark.parametrize(("was", "wanted"), [(0, 1), (2, 0)])
def test_stage_zero_converts_to_no_other(was: int, wanted: int) -> None:
    with pytest.raises(InputError, match=rf"set resources\.zero_stage={was}"):
        needs_conversion(state(5, zero_stage=was), 1, wanted)
