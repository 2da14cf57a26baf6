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
        assert not (tmp_path / "next.yaml").exists(), "the next update would be refused"

    def test_one_at_a_time(self, recipe, sleeper, tmp_path):
        write_state(tmp_path / "tiny.server", sleeper.pid, deploy.born(sleeper.pid))
        (tmp_path / "tiny.server" / "next.yaml").write_text("another")
        with pytest.raises(InputError, match=r"tiny is being updated already: wait.*next\.yaml"):
            run.update(recipe, Progress(quiet=True))
        assert (tmp_path / "tiny.server" / "next.yaml").read_text() == "another" and sleeper.poll() is None

    @pytest.mark.parametrize("canary", [{"share": 0.5}, None])
    def test_ctrl_c_calls_a_canary_off_and_waits_until_the_old_version_has_all_again(
        self, serve_recipe, tmp_path, canary
    ):
        recipe, folder = serve_recipe(tmp_path, tmp_path, canary=canary), tmp_path / "tiny.server"
        write_state(folder, os.getpid(), deploy.born(os.getpid()))
        waited = mock.Mock(side_effect=[KeyboardInterrupt, {"code": 3, "said": "the update is called off"}])
        with (
            mock.patch("serving.run.os.kill"),
            mock.patch("serving.run._wait_updated", waited),
            pytest.raises(KeyboardInterrupt),
        ):
            run.update(recipe, Progress(quiet=True))
        assert (folder / "called-off").exists() == (canary is not None)
        assert waited.call_count == (2 if canary else 1)

    def test_the_server_looks_whether_it_is_called_off_and_leaves_the_figures(self, recipe, tmp_path):
        (tmp_path / "next.yaml").write_text(recipes.to_yaml(recipe))
        found = []

        def updated(was, _, progress, tell, wanted):
            tell({"state": "comparing"})
            found.append(wanted())
            (tmp_path / "called-off").touch()
            found.append(wanted())
            return was

        with mock.patch("serving.update.update", updated):
            run._become_next(deploy.Running("http://x", launch(), 1.0, {}), tmp_path, Progress(quiet=True))
        assert found == [True, False] and json.loads((tmp_path / "canary.json").read_text()) == {"state": "comparing"}

    def test_figures_are_shown_as_they_come(self, sleeper, tmp_path):
        """What was found at a look is said once; how far it is, whenever that changes."""
        state = {"pid": sleeper.pid, "born": deploy.born(sleeper.pid)}
        arms = {"canary": {"requests": 30, "errors": 2}, "stable": {"requests": 270, "errors": 1}}
        model = {"looks": 2, "figures": [{"text": "errors 6.7% instead of 0.4%"}], **arms}
        told = iter(["starting", "starting", "comparing", "comparing", "again", "promoted"])

        def sleep(_: float) -> None:
            step = next(told, None)
            if step is None:
                (tmp_path / "updated.json").write_text('{"code": 0, "said": "replaced"}')
                return
            if step == "again":
                step, arms["canary"]["requests"] = "comparing", 31
            figures = {"state": step, "models": {"tiny": {**model, **arms}}, "settings": {"requests": 200}}
            (tmp_path / "canary.json").write_text(json.dumps(figures))

        progress = mock.Mock(spec=Progress)
        with mock.patch("serving.run.time.sleep", sleep):
            assert run._wait_updated("tiny", tmp_path, state, progress)["said"] == "replaced"
        assert progress.note.call_args_list[0].args == ("tiny: errors 6.7% instead of 0.4%",)
        assert progress.note.call_count == 1
        assert [call.args for call in progress.update.call_args_list] == [(30, 200, "requests"), (31, 200, "requests")]
        assert progress.update.call_args.kwargs == {"canary_errors": 2, "stable_errors": 1}

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
