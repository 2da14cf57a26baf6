"""State of detached endpoints: found by recipe, folder or name; never another process that got an old one's number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from unittest import mock

import pytest

from manta import recipe as recipes
from manta.errors import GateRefused, InputError, StageFailed
from manta.progress import Progress
from serving import deploy, run, update
from serving.door import keys
from tests.serving.fake_engine import launch


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


class TestUpdate:
    @pytest.fixture
    def recipe(self, serve_recipe, tmp_path):
        return serve_recipe(tmp_path, tmp_path)

    def test_only_what_runs_is_updated(self, recipe):
        with pytest.raises(InputError, match=r"tiny does not run in the background: start it with .*--detach"):
            run.update(recipe, Progress(quiet=True))

    def test_a_server_that_ends_meanwhile_is_told(self, recipe, sleeper, tmp_path):
        """SIGHUP ends a process that does not wait for it."""
        write_state(tmp_path / "tiny.server", sleeper.pid, deploy.born(sleeper.pid))
        with pytest.raises(StageFailed, match="tiny ended while it was updated"):
            run.update(recipe, Progress(quiet=True))
        assert sleeper.wait(10) == -1

    @pytest.mark.parametrize(("failure", "code"), [(None, 0), (GateRefused("it lost too much"), 4)])
    def test_the_server_tells_how_it_went(self, recipe, tmp_path, failure, code):
        was = deploy.Running("http://x", launch(), 1.0, {})
        now = was._replace(ready_seconds=7.0)
        (tmp_path / "next.yaml").write_text(recipes.to_yaml(recipe))
        (tmp_path / "server.yaml").write_text("old")
        with mock.patch("serving.update.update", side_effect=failure, return_value=now) as updated:
            found = run._become_next(was, tmp_path, Progress(quiet=True))
        assert updated.call_args.args[:2] == (was, recipe)
        assert found == (was if failure else now)
        told = json.loads((tmp_path / "updated.json").read_text())
        assert told == {"code": code, "said": str(failure) if failure else "replaced after 7 s"}
        assert (tmp_path / "server.yaml").read_text() == ("old" if failure else recipes.to_yaml(recipe))

    @pytest.mark.parametrize("changes", [{"front": False}, {"front": True, "host": "0.0.0.0"}])
    def test_what_cannot_follow_is_refused_before_anything_starts(self, serve_recipe, tiny_model, tmp_path, changes):
        guarded = {"keys_file": str(tmp_path / "keys")}
        keys.create(guarded["keys_file"], "alice")
        was = deploy.Running("http://x", launch(front=True), 1.0, {})
        with pytest.raises(InputError, match=r"leave name, serve\.host and serve\.front as they are"):
            update.update(was, serve_recipe(tmp_path, tiny_model, **guarded, **changes), Progress(quiet=True))


@pytest.mark.parametrize(("code", "kind"), [(2, InputError), (4, GateRefused), (3, StageFailed), (1, StageFailed)])
def test_a_detached_start_fails_as_the_start_itself_did(tmp_path, code, kind):
    error = run._as_it_was(code, "noise\nmanta: serve.port = 1 is taken\nmore noise", tmp_path / "log")
    assert type(error) is kind
    assert str(error).startswith("serve.port = 1 is taken")


def test_the_reason_of_a_failed_deployment_is_its_last_error():
    report = "The deployment failed to start 1 times in a row.\nTraceback (most recent call last):\n  File x\n    raise\nValueError: head_dim 16\n"
    assert deploy._reason(["", report]) == "ValueError: head_dim 16"
