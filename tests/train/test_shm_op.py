"""Building DeepSpeed's communication op: once, and also after a killed build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manta.train import shm_op


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    return shm_op.build_folder()


def finish_build(folder: Path) -> None:
    (folder / f"{shm_op.NAME}.so").touch()
    (folder / shm_op.MARKER).write_text(json.dumps(shm_op._built_for()))


def test_a_finished_build_is_kept(folder: Path) -> None:
    finish_build(folder)
    assert "built already" in shm_op.warm()


def test_a_build_for_other_versions_does_not_count(folder: Path) -> None:
    finish_build(folder)
    (folder / shm_op.MARKER).write_text(json.dumps({**shm_op._built_for(), "torch": "0.1"}))
    assert not shm_op.is_built(folder)


def test_a_killed_build_is_neither_used_nor_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{shm_op.NAME}.so").touch()  # torn: the marker never came
    (folder / "lock").touch()  # torch would wait for this for ever
    assert not shm_op.is_built(folder)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "no C++ compiler" in shm_op.warm()
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(folder.parent))
    seen = []

    class Builder:
        def load(self, verbose: bool) -> None:
            seen.append((folder / "lock").exists())

    accelerator = pytest.importorskip("deepspeed.accelerator")
    monkeypatch.setattr(accelerator.get_accelerator(), "create_op_builder", lambda name: Builder())
    shm_op.warm()
    assert seen == [False]
