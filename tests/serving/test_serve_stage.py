"""The `serve` stage of a pipeline and the detached endpoint, with real engines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from manta import recipe as recipes
from manta import stage
from serving import deploy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_the_serve_stage_asks_its_questions(tiny_model, serve_recipe, ray_session, output, silent):
    recipe = serve_recipe(output, tiny_model, smoke=["the quick", "the lazy dog"])
    outcome = stage.run(recipe, silent)
    transcript = json.loads((Path(output) / "tiny" / "transcript.json").read_text())
    figures = outcome.artifact.metrics
    assert [entry["question"] for entry in transcript] == ["the quick", "the lazy dog"]
    assert {entry["fingerprint"] for entry in transcript} == {
        outcome.artifact.manifest["inputs"]["model.source"]["fingerprint"]
    }
    assert figures["answer"] == transcript[0]["answer"]
    assert figures["tokens"] == sum(entry["completion_tokens"] for entry in transcript) > 0
    assert stage.run(recipe, silent).skipped


def chat(target: str, said: str) -> subprocess.CompletedProcess[str]:
    """`manta chat` with piped input."""
    command = [sys.executable, "-m", "manta.cli", "chat", target, "--max-tokens", "6"]
    return subprocess.run(command, input=said, capture_output=True, text=True, timeout=120, check=False)


def test_detached_chat_and_stop(tiny_model, serve_recipe, output, manta_cli, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(recipes.to_yaml(serve_recipe(output, tiny_model)))
    begun = manta_cli("serve", str(file), "--detach", timeout=300)
    assert begun.returncode == 0, begun.stderr
    state = json.loads((Path(output) / "tiny.server" / "server.json").read_text())
    assert state["url"] in begun.stdout
    assert deploy.is_ready(state["url"])
    again = manta_cli("serve", str(file), "--detach")
    assert again.returncode == 2
    assert "runs already" in again.stderr
    said = chat(state["url"], "the quick\n/clear\n\nthe lazy\n/quit\nnever asked\n")
    assert said.returncode == 0, said.stderr
    assert len(said.stdout.split("\n")) >= 3
    stopped = manta_cli("serve", "stop", str(file), timeout=120)
    assert stopped.returncode == 0, stopped.stderr
    processes = {state["pid"]: state["born"], **state["processes"]}
    assert not [pid for pid, birth in processes.items() if deploy.is_alive(int(pid), birth)]
    assert not deploy.is_ready(state["url"])
    gone = chat(state["url"], "hello\n")
    assert gone.returncode == 2
    assert "nothing answers" in gone.stderr
