"""Checkpoints written by a thread: whole before they count, tried again while the store is at fault, given up when not."""

from __future__ import annotations

import errno
import json
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from manta.errors import StageFailed
from manta.storage import Folder
from manta.train import checkpoint
from manta.train.writer import Task, Writer
from tests.train.writing import ATTEMPT, Part, Said, state, wait, writer

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path if request.param == "local" else f"memory://{uuid.uuid4().hex}")
    (made / checkpoint.PARENT).make()
    yield made
    made.clear()


def files(folder: Folder) -> list[str]:
    return [name.removeprefix("checkpoints/") for name in folder.files()]


def test_it_counts_when_every_rank_has_stored_its_part(folder: Folder) -> None:
    first, second = writer(folder, rank=0), writer(folder, rank=1)
    first.start(Task(state(5, workers=2), Part("ours")))
    while "step-00000005/part-0.json" not in files(folder):
        threading.Event().wait(0.005)
    assert first.busy and checkpoint.newest(folder) is None, "the other rank's part is not there"
    second.start(Task(state(5, workers=2), Part("theirs, longer", rank=1)))
    wait(second)
    wait(first)
    assert files(folder) == ["step-00000005/state.json", "step-00000005/weights-0.pt", "step-00000005/weights-1.pt"]
    made = checkpoint.newest(folder)
    assert made is not None and made.files == {"weights-0.pt": 4, "weights-1.pt": 14}
    assert first.done == [made] and second.done == []


def test_the_word_of_an_earlier_worker_group_does_not_count(folder: Folder) -> None:
    """A rank that was stopped and went on when its group had been replaced."""
    writer(folder, rank=1, attempt=ATTEMPT - 1).start(Task(state(5, workers=2), Part("old", rank=1)))
    first = writer(folder)
    first.start(Task(state(5, workers=2), Part()))
    threading.Event().wait(0.3)
    assert first.busy and checkpoint.newest(folder) is None
    second = writer(folder, rank=1)
    second.start(Task(state(5, workers=2), Part("weights", rank=1)))
    wait(first)
    assert checkpoint.newest_step(folder.url) == 5


@pytest.mark.parametrize(
    "error", [FULL, TimeoutError("no answer"), ConnectionError("reset")], ids=["full", "slow", "gone"]
)
def test_a_store_at_fault_is_tried_again_and_told_once(folder: Folder, error: OSError) -> None:
    said, part = Said(), Part(fails=[error] * 3)
    one = writer(folder, said=said)
    one.start(Task(state(5), part))
    wait(one)
    assert checkpoint.newest_step(folder.url) == 5 and part.written == 1
    assert len(said.texts) == 1, "told once"
    assert (
        f"the checkpoint of step 5 could not be written to {folder.url}: {error.strerror or error}"[:90]
        in said.texts[0]
    )
    assert "training goes on until the next checkpoint" in said.texts[0]
    assert not one.troubled


def test_a_full_disk_is_told_with_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / checkpoint.PARENT).mkdir()
    said = Said()
    one = writer(Folder(tmp_path), said=said)
    one.start(Task(state(5), Part("x" * 3_000_000, fails=[FULL])))
    wait(one)
    assert "No space left on device (3 MB are needed, " in said.texts[0] and "MB are free)" in said.texts[0]


def test_while_it_is_tried_again_it_says_so(folder: Folder) -> None:
    part = Part(fails=[FULL] * 10_000)
    one = writer(folder)
    one.start(Task(state(5), part))
    while not one.troubled:
        threading.Event().wait(0.005)
    moves = one.moves
    threading.Event().wait(0.2)
    assert one.busy and one.moves > moves, "it does not hang"
    part.fails.clear()  # there is room again
    wait(one)
    assert checkpoint.newest_step(folder.url) == 5


@pytest.mark.parametrize(
    "error",
    [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EROFS, "Read-only file system")],
    ids=["forbidden", "read-only"],
)
def test_what_no_waiting_mends_ends_the_run(folder: Folder, error: OSError) -> None:
    one = writer(folder)
    one.start(Task(state(5), Part(fails=[error])))
    wait(one)
    assert isinstance(one.error, StageFailed) and not one.busy
    assert str(one.error).startswith(f"the checkpoint of step 5 cannot be written to {folder.url}: [Errno ")
    assert f"`manta resume {folder.url}`" in str(one.error)
    assert checkpoint.newest(folder) is None


def test_a_folder_that_vanished_is_not_made_anew(tmp_path: Path) -> None:
    one = writer(Folder(tmp_path / "unmounted"))
    one.start(Task(state(5), Part()))
    wait(one)
    assert isinstance(one.error, StageFailed) and not (tmp_path / "unmounted").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_another_user(tmp_path: Path) -> None:
    (tmp_path / checkpoint.PARENT).mkdir(mode=0o500)
    one = writer(Folder(tmp_path))
    one.start(Task(state(5), Part()))
    wait(one)
    assert isinstance(one.error, StageFailed) and "Permission denied" in str(one.error)


def test_an_error_of_ours_is_not_taken_for_the_stores(folder: Folder) -> None:
    part = Part(fails=[KeyError("a mistake")])
    one = writer(folder)
    one.start(Task(state(5), part))
    wait(one)
    assert isinstance(one.error, KeyError) and part.written == 0


def test_a_file_that_arrived_cut_off_does_not_count(folder: Folder) -> None:
    """The size that the rank wrote is compared with what the store has."""

    class Liar(Part):
        def write(self, folder: Path) -> Iterator[tuple[str, int]]:
            for name, size in super().write(folder):
                yield name, size + 1

    said = Said()
    one = writer(folder, said=said)
    one.start(Task(state(5), Liar()))
    while not said.texts:
        threading.Event().wait(0.005)
    assert "weights-0.pt has 7 bytes instead of 8" in said.texts[0]
    assert checkpoint.newest(folder) is None
    folder.write_text("checkpoints/step-00000005/weights-0.pt", "weights!")  # the rest arrives
    wait(one)
    assert checkpoint.newest_step(folder.url) == 5


def test_the_metrics_are_durable_before_the_checkpoint_counts(folder: Folder) -> None:
    seen: list[bool] = []
    one = Writer(folder, 0, ATTEMPT, 2, lambda: seen.append(checkpoint.newest(folder) is None), Said(), (0.01, 0.02))
    one.start(Task(state(5), Part()))
    wait(one)
    assert seen == [True]
    assert json.loads(folder.read_text("checkpoints/step-00000005/state.json"))["metrics_lines"] == 5
