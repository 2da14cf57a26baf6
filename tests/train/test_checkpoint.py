"""Checkpoint folders: whole or not there, the newest found, damaged ones passed over, old ones gone."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from manta.errors import InputError
from manta.storage import Folder
from manta.train.checkpoint import STATE, State, needs_conversion, newest, newest_step, opened, remove_old, tidy
from tests.train.writing import Part, make, state

SIZE = {"weights-0.pt": len("weights")}


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    """A run's folder on this disk, and one on a store that is none."""
    made = Folder(tmp_path if request.param == "local" else f"memory://{uuid.uuid4().hex}")
    yield made
    made.clear()


def steps(folder: Folder) -> set[int]:
    return {int(name.split("/")[1].removeprefix("step-")) for name in folder.files()}


def found(folder: Folder) -> State | None:
    """The newest one, but for how long it took."""
    made = newest(folder)
    return made and replace(made, figures={})


def test_newest_is_the_last_finished_one(folder: Folder) -> None:
    assert newest(folder) is None
    assert newest_step(folder.url) == 0
    for step in (5, 10):
        make(folder, step)
    assert isinstance(make(folder, 15, part=Part(fails=[ValueError()])).error, ValueError)
    folder.write_text("checkpoints/step-00000015/weights-0.pt", "as far as the writer came")
    assert found(folder) == replace(state(10), files=SIZE)
    assert newest_step(folder.url) == 10


def test_the_state_says_what_was_written(folder: Folder) -> None:
    make(folder, 5)
    made = newest(folder)
    assert made is not None and made.figures["bytes"] == len("weights") and 0 <= made.figures["write_s"] < 60


@pytest.mark.parametrize("text", ["weigh", None])
def test_a_damaged_one_is_passed_over_and_removed(folder: Folder, text: str | None) -> None:
    for step in (5, 10):
        make(folder, step)
    file = "checkpoints/step-00000010/weights-0.pt"
    if text is None:
        folder.clear(file)
    else:
        folder.write_text(file, text)
    assert newest_step(folder.url) == 5
    wrong = "is missing" if text is None else "has 5 bytes instead of 7"
    assert tidy(folder) == [f"the checkpoint step-00000010 is damaged and was removed: weights-0.pt {wrong}"]
    assert steps(folder) == {5}


def test_what_a_killed_attempt_left_is_removed(folder: Folder) -> None:
    for step in (5, 10):
        make(folder, step)
    for step in (3, 8, 15):
        folder.write_text(f"checkpoints/step-{step:08}/weights-0.pt", "weights")
    assert tidy(folder) == []
    assert steps(folder) == {5, 10}


def test_a_new_run_gets_its_folder(tmp_path: Path) -> None:
    assert tidy(Folder(tmp_path / "run")) == []
    assert (tmp_path / "run/checkpoints").is_dir()


def test_only_the_newest_are_kept(folder: Folder) -> None:
    for step in (5, 10, 15, 20):
        make(folder, step, keep=2)
    assert steps(folder) == {15, 20}


def test_the_best_one_is_spared(folder: Folder) -> None:
    for step in (5, 10, 15, 20):
        make(folder, step, keep=1, spared=10 if step >= 10 else None)
    assert steps(folder) == {10, 20}


def test_a_removal_that_was_killed_leaves_nothing_that_looks_whole(folder: Folder) -> None:
    for step in (5, 10):
        make(folder, step)
    folder.clear(f"checkpoints/step-00000005/{STATE}")  # as far as the removal came
    remove_old(folder, keep=2)
    assert steps(folder) == {10}


def test_opening_gives_a_local_copy(folder: Folder) -> None:
    make(folder, 5)
    with opened(folder, state(5), False, lambda *_: None, 0, lambda: None) as (parent, tag):
        assert (parent / tag / "weights-0.pt").read_text() == "weights"


def test_conversion_happens_once_and_leaves_nothing(folder: Folder) -> None:
    make(folder, 5)

    def convert(source: Path, target: Path) -> None:
        (target / "whole.pt").write_text((source / "weights-0.pt").read_text() + " converted")

    with opened(folder, state(5), True, convert, 0, lambda: None) as (parent, tag):
        assert (parent / tag / "whole.pt").read_text() == "weights converted"
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
