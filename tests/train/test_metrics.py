"""metrics.jsonl: each step exactly once, also after a resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manta.storage import Folder
from manta.train.metrics import FILE, Metrics, read


def test_lines_and_last(tmp_path: Path) -> None:
    metrics = Metrics(Folder(tmp_path), 0, 0)
    metrics.add("train", 1, loss=3.0)
    metrics.add("train", 2, loss=2.0)
    metrics.add("validation", 2, loss=2.5)
    assert read(Folder(tmp_path)) == [  # readable while the run goes on
        {"step": 1, "kind": "train", "loss": 3.0},
        {"step": 2, "kind": "train", "loss": 2.0},
        {"step": 2, "kind": "validation", "loss": 2.5},
    ]
    assert metrics.last["train"]["loss"] == 2.0
    metrics.close()
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_resume_cuts_off_what_will_be_trained_again(tmp_path: Path) -> None:
    first = Metrics(Folder(tmp_path), 0, 0)
    for step in range(1, 8):
        first.add("train", step, loss=1.0 / step)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 8, "ki')  # the kill came in the middle of a line
    second = Metrics(Folder(tmp_path), 5, 5)
    assert second.lines == 5
    assert second.last["train"]["step"] == 5
    second.add("train", 6, loss=0.5)
    assert [line["step"] for line in read(Folder(tmp_path))] == [1, 2, 3, 4, 5, 6]
    assert len((tmp_path / FILE).read_text().splitlines()) == 6


def test_a_fresh_start_forgets_an_attempt_without_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"step": 1, "kind": "train", "loss": 1.0}) + "\n")
    assert Metrics(Folder(tmp_path), 0, 0).lines == 0
    assert read(Folder(tmp_path)) == []


def test_fewer_lines_than_the_checkpoint_knows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="has 0 lines, the checkpoint of step 5 was written after 5"):
        Metrics(Folder(tmp_path), 5, 5)


def test_a_store_that_is_no_disk(tmp_path: Path) -> None:
    """Lines reach it with each sync, TensorBoard's events at the end."""
    folder = Folder(f"memory://{tmp_path.name}")
    metrics = Metrics(folder, 0, 0)
    metrics.add("train", 1, loss=3.0)
    metrics.sync()
    assert [line["step"] for line in read(folder)] == [1]
    metrics.add("train", 2, loss=2.0)
    metrics.close()
    assert [line["step"] for line in read(folder)] == [1, 2]
    assert any(name.startswith("tensorboard/events") for name in folder.files())
    again = Metrics(folder, 1, 1)
    again.close()
    assert [line["step"] for line in read(folder)] == [1]
    folder.clear()


def test_the_file_is_json_also_where_a_loss_is_none(tmp_path: Path) -> None:
    metrics = Metrics(Folder(tmp_path), 0, 0)
    metrics.add("train", 1, loss=float("nan"), grad_norm=float("inf"), tokens=8)
    metrics.add("sample", 1, prompt="a", text="b")
    metrics.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in (tmp_path / FILE).read_text().splitlines()]
    assert lines[0] == {"step": 1, "kind": "train", "loss": None, "grad_norm": None, "tokens": 8}
    assert lines[1]["text"] == "b"


def test_on_a_full_disk_lines_wait_for_room(tmp_path: Path) -> None:
    metrics = Metrics(Folder(tmp_path), 0, 0)
    metrics.add("train", 1, loss=3.0)
    there, metrics._file = metrics._file, open("/dev/full", "wb", buffering=0)  # noqa: SIM115 - closed below
    metrics.add("train", 2, loss=2.0)
    metrics.add("train", 3, loss=1.0)
    assert metrics.lines == 3 and [line["step"] for line in read(Folder(tmp_path))] == [1]
    with pytest.raises(OSError, match="No space left"):
        metrics.sync()  # a checkpoint that counts these lines must not be called whole
    metrics._file.close()
    metrics._file = there
    metrics.sync()
    metrics.add("train", 4, loss=0.5)
    assert [line["step"] for line in read(Folder(tmp_path))] == [1, 2, 3, 4]
    metrics.close()
