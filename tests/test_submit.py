"""Submitting: what travels, and how a log is followed through a broken connection."""

import subprocess

import pytest

from manta import submit
from manta.errors import InputError


def test_only_tracked_files_travel(tmp_path) -> None:
    root = tmp_path / "project"
    (root / "runs").mkdir(parents=True)
    for name in ("tracked.py", ".gitignore", "secret.env", "runs/model.bin", "mine.yaml"):
        (root / name).write_text(name)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    subprocess.run(["git", "-C", str(root), "add", "-f", "tracked.py", ".gitignore"], check=True)
    packed = submit.pack(root, tmp_path / "packed", also=root / "mine.yaml")
    assert sorted(str(p.relative_to(packed)) for p in packed.rglob("*") if p.is_file()) == ["mine.yaml", "tracked.py"]
    subprocess.run(["rm", "-r", str(root / ".git")], check=True)
    with pytest.raises(InputError, match="not a git checkout"):
        submit.pack(root, tmp_path / "again", also=root / "mine.yaml")


class _Status:
    def __init__(self, value: str):
        self.value = value

    def is_terminal(self) -> bool:
        return self.value != "RUNNING"


class _FlakyClient:
    """Answers from a script: an exception is raised, a pair is (status, whole log so far)."""

    def __init__(self, script: list):
        self.script = script

    def get_job_status(self, job: str) -> _Status:
        if isinstance(self.script[0], Exception):
            raise self.script.pop(0)
        return _Status(self.script[0][0])

    def get_job_logs(self, job: str) -> str:
        return self.script.pop(0)[1]


def test_the_log_is_taken_up_where_it_broke_off(monkeypatch, capsys) -> None:
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: None)
    script = [
        ("RUNNING", "one\n"),
        ConnectionError("gone"),
        RuntimeError("502"),
        ("RUNNING", "one\ntwo\n"),
        ("FAILED", "one\ntwo\nend\n"),
    ]
    assert submit.follow(_FlakyClient(script), "job") == "FAILED"
    assert capsys.readouterr().out == "one\ntwo\nend\n"


def test_recipes_are_checked_before_anything_travels(tmp_path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        submit.submit(str(tmp_path / "nowhere.yaml"), [], "http://127.0.0.1:1")
