"""State of detached endpoints: found by recipe, folder or name; never another process that got an old one's number."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from manta.errors import GateRefused, InputError, StageFailed
from serving import deploy, run


@pytest.fixture
def sleeper():
    """A process that ends by SIGTERM."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def write_state(folder, pid: int, birth: int | None, processes=None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {"name": "s", "url": "http://127.0.0.1:1", "pid": pid, "born": birth, "processes": processes or {}}
    (folder / "server.json").write_text(json.dumps(state))


def test_a_process_is_told_from_another_with_its_number(sleeper):
    birth = deploy.born(sleeper.pid)
    assert deploy.is_alive(sleeper.pid, birth)
    assert not deploy.is_alive(sleeper.pid, birth + 1)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not deploy.is_alive(sleeper.pid, birth), "a zombie counts as running"
    sleeper.wait()
    assert deploy.born(sleeper.pid) is None


def test_what_is_left_after_the_patience_is_killed(sleeper):
    deploy.end_processes({sleeper.pid: deploy.born(sleeper.pid)}, patience=0)
    assert sleeper.wait(10) == -9


def test_stop_ends_the_process_and_forgets_it(sleeper, tmp_path):
    write_state(tmp_path / "s", sleeper.pid, deploy.born(sleeper.pid))
    assert "is stopped" in run.stop(str(tmp_path / "s"))  # as for any folder that holds a state
    assert sleeper.wait(10) == -15
    assert not (tmp_path / "s" / "server.json").exists()


def test_an_endpoint_may_be_named_by_its_artifact(sleeper, tmp_path):
    write_state(tmp_path / "s.server", sleeper.pid, deploy.born(sleeper.pid))
    assert "is stopped" in run.stop(str(tmp_path / "s"))


def test_stop_leaves_a_stranger_with_an_old_number_alone(sleeper, tmp_path):
    write_state(tmp_path / "s", sleeper.pid, deploy.born(sleeper.pid) - 1)
    assert "was not running any more" in run.stop(str(tmp_path / "s"))
    assert sleeper.poll() is None


def test_stop_without_an_endpoint_says_how_to_start_one(tmp_path):
    with pytest.raises(InputError, match="--detach` starts one"):
        run.stop(str(tmp_path))


def test_a_damaged_state_is_named(tmp_path):
    (tmp_path / "server.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        run.stop(str(tmp_path))


def test_an_endpoint_is_found_by_its_recipe(sleeper, tmp_path):
    write_state(tmp_path / "runs" / "mine.server", sleeper.pid, deploy.born(sleeper.pid))
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"kind: serve\nname: mine\noutput: {tmp_path}/runs\nmodel: {{source: x}}\n")
    assert "is stopped" in run.stop(str(recipe))


@pytest.mark.parametrize(("code", "kind"), [(2, InputError), (4, GateRefused), (3, StageFailed), (1, StageFailed)])
def test_a_detached_start_fails_as_the_start_itself_did(tmp_path, code, kind):
    error = run._as_it_was(code, "noise\nmanta: serve.port = 1 is taken\nmore noise", tmp_path / "log")
    assert type(error) is kind
    assert str(error).startswith("serve.port = 1 is taken")


def test_the_reason_of_a_failed_deployment_is_its_last_error():
    report = "The deployment failed to start 1 times in a row.\nTraceback (most recent call last):\n  File x\n    raise\nValueError: head_dim 16\n"
    assert deploy._reason(["", report]) == "ValueError: head_dim 16"
