"""Two replicas with real engines: they answer alike, and what clients notice when one engine is killed under load."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from manta.progress import Progress
from serving import deploy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

BODY = {"model": "tiny", "prompt": "the quick brown", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
CLIENTS = 8


@pytest.fixture(scope="module")
def endpoint(tiny_model, serve_recipe, ray_session, tmp_path_factory) -> Iterator[deploy.Running]:
    folder = tmp_path_factory.mktemp("pair")
    recipe = serve_recipe(folder, tiny_model, min_replicas=2, max_replicas=2, access_log=str(folder / "logs"))
    with deploy.endpoint(recipe, Progress(quiet=True)) as running:
        yield running
    assert not [pid for pid, birth in running.processes.items() if deploy.is_alive(pid, birth)]


def replicas(running: deploy.Running) -> list[psutil.Process]:
    """The processes that hold an engine."""
    names = {pid: psutil.Process(pid) for pid in running.processes if psutil.pid_exists(pid)}
    return [process for process in names.values() if "Replica-tiny" in process.name()]


class Load:
    """Clients that ask all the time, whole answers and streams in turn, and what became of each."""

    def __init__(self, http: httpx.AsyncClient):
        self.http = http
        self.whole: list[tuple[float, int]] = []  # when it ended, status
        self.streams: list[tuple[float, str]] = []  # when it ended, its end: done, error or nothing
        self.stop = False

    async def client(self, streams: bool) -> None:
        while not self.stop:
            answer = await self.http.post("/v1/completions", json={**BODY, "stream": streams})
            if not streams or answer.status_code != 200:
                self.whole.append((time.monotonic(), answer.status_code))
                continue
            text = answer.text
            end = "done" if text.endswith("data: [DONE]\n\n") else "error" if 'data: {"error"' in text else "nothing"
            self.streams.append((time.monotonic(), end))

    async def run(self, kill: int, seconds: float) -> float:
        """Load for a while, with a process killed in the middle of it. When it was killed."""
        clients = [asyncio.create_task(self.client(number % 2 == 0)) for number in range(CLIENTS)]
        await asyncio.sleep(seconds / 2)
        moment = time.monotonic()
        os.kill(kill, signal.SIGKILL)
        await asyncio.sleep(seconds / 2)
        self.stop = True
        await asyncio.gather(*clients)
        return moment


def under_load(endpoint: deploy.Running, kill: int, seconds: float) -> tuple[Load, float]:
    async def story() -> tuple[Load, float]:
        async with httpx.AsyncClient(base_url=endpoint.url, timeout=60) as http, asyncio.timeout(120):
            load = Load(http)
            return load, await load.run(kill, seconds)

    return asyncio.run(story())


def test_both_engines_answer_alike(endpoint):
    def ask() -> dict[str, Any]:
        answer = httpx.post(f"{endpoint.url}/v1/completions", json=BODY, timeout=60)
        assert answer.headers["x-manta-fingerprint"] == endpoint.launch.fingerprint
        return answer.json()

    answers = [ask() for _ in range(8)]
    assert len({one["choices"][0]["text"] for one in answers}) == 1
    assert {one["usage"]["completion_tokens"] for one in answers} == {24}
    text = httpx.get(f"{endpoint.url}/metrics", timeout=60).text
    counted = [line for line in text.splitlines() if line.startswith("vllm:generation_tokens_total{")]
    assert len(counted) == 2 and sum(float(line.rpartition(" ")[2]) for line in counted) >= 8 * 24
    assert 'manta_completion_tokens_total{key="anonymous",model="tiny"} 192.0' in text


def test_z_a_killed_engine_costs_no_answer_but_the_streams_it_had_begun(endpoint):
    replica = replicas(endpoint)[0]
    engine = next(child for child in replica.children(recursive=True) if "EngineCore" in child.name())
    load, moment = under_load(endpoint, engine.pid, seconds=8.0)
    assert set(Counter(status for _, status in load.whole)) == {200}
    ends = Counter(end for _, end in load.streams)
    assert ends["nothing"] == 0 and ends["error"] <= CLIENTS / 2
    late = [when - moment for when, end in load.streams if end == "error" and when > moment + 2]
    assert late == [], "errors for more than two seconds"
