"""Replicas without an engine: the same private port and the same faults, in this process or as Serve's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx

from serving.door import server
from serving.door.gateway import Gateway
from serving.door.inbox import read_body
from serving.engines.runners import RUNNERS
from serving.fleet import routing
from serving.fleet.fleet import Fleet
from serving.fleet.private import Private
from serving.fleet.replica import Replica
from serving.launch import Served
from tests.serving.fake_engine import CHAT, FakeEngine, begin, chunk, event, finish, launch, reply, served

DAMAGED, FAILING, SLOW = "damaged", "failing", "slow"  # models whose replicas are so
SLOW_SECONDS = 0.05  # what each piece takes longer
LOADING = "loading:"  # and the path of a file that it makes when it has begun to load, which takes minutes


class FakeRunner(FakeEngine):
    """Tells who it is. "slow" streams `tokens` pieces, one each `seconds`; "die" kills the process, "engine dies" the engine
    alone, after `tokens` pieces; a FakeEngine in everything else. `does`: what it does whatever it is asked to do; `slower`:
    seconds that each piece takes longer."""

    def __init__(self, name: str = "") -> None:
        super().__init__()
        self.name = name or str(os.getpid())
        self.app = self
        self.told: dict[str, Any] = {}
        self.does: str | None = None
        self.slower = 0.0

    def process_ids(self) -> list[int]:
        return []

    def stop(self) -> None:
        self.is_alive = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "GET":
            return await self._tell(scope["path"], send)
        body = await read_body(receive, {}, 10_000_000)
        assert isinstance(body, bytes)
        asked = json.loads(body)
        if self.does is not None:
            asked["do"] = self.does
            body = json.dumps(asked).encode()
        if asked.get("do") not in ("who", "slow", "die", "engine dies"):
            return await super().__call__(scope, _first(body, receive), send)
        self.seen.append(asked["do"])
        if asked.get("stream"):
            await begin(send)
        for _ in range(asked.get("tokens", 0)):
            await asyncio.sleep(asked.get("seconds", 0) + self.slower)
            if not self.is_alive:
                raise RuntimeError("the engine is dead")
            if asked.get("stream"):
                await event(send, chunk(self.name + " "))
        if asked["do"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if asked["do"] == "engine dies":
            self.is_alive = False
            raise RuntimeError("the engine is dead")
        finish(scope)
        if not asked.get("stream"):
            return await reply(send, 200, json.dumps({"who": self.name, **self.told}).encode())
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
        return await send({"type": "http.response.body", "body": b"", "more_body": False})


def _first(body: bytes, receive: Any) -> Any:
    """A `receive` that gives a body which was taken from it once more."""
    kept = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Any:
        return kept.pop() if kept else await receive()

    return again


class FakeReplica(Replica):
    """Serve's deployment with a runner that starts at once, or never where the model is DAMAGED."""

    async def __init__(self, *args: Any) -> None:  # type: ignore[misc]
        async def start(of: Served) -> FakeRunner:
            if of.model == DAMAGED:
                raise RuntimeError("the weights are damaged")
            if of.model.startswith(LOADING):
                Path(of.model.removeprefix(LOADING)).touch()
                time.sleep(600)  # as vLLM does: in the event loop
            runner = FakeRunner()
            runner.told = {"cores": sorted(os.sched_getaffinity(0))}
            runner.does = "500" if of.model == FAILING else None
            runner.slower = SLOW_SECONDS if of.model == SLOW else 0.0
            return runner

        RUNNERS["vllm"] = start
        await super().__init__(*args)


class Crew:
    """Replicas in this process, and Serve's handle of them as far as a Team uses it."""

    def __init__(self, router: type = routing.LeastBusy) -> None:
        self.router = router.__new__(router)
        self.runners: dict[str, FakeRunner] = {}
        self.replicas: dict[str, Any] = {}
        self.woken = 0
        self.wake = SimpleNamespace(remote=self._wake)
        self._servers: dict[str, Any] = {}

    async def start(self, name: str) -> FakeRunner:
        runner = self.runners[name] = FakeRunner(name)
        private = Private(runner, served(fingerprint=name * 64))
        running, task, port = await server.listen(private, "127.0.0.1", 0, drain_seconds=1)
        self._servers[name] = (running, task)
        told = {"host": "127.0.0.1", "port": port, "token": private.token}
        self.replicas[name] = SimpleNamespace(replica_id=SimpleNamespace(unique_id=name), replica_metadata=told)
        return runner

    async def kill(self, name: str, known: bool = False) -> None:
        """Its port closes and its connections break. `known`: Serve has noticed."""
        running, task = self._servers.pop(name)
        for connection in list(running.server_state.connections):
            connection.transport.abort()
        running.should_exit = True
        await task
        if known:
            del self.replicas[name]

    async def end(self) -> None:
        for name in list(self._servers):
            await self.kill(name)

    @contextlib.asynccontextmanager
    async def choose_replica(self, *args: Any, _reserve: bool = True) -> AsyncIterator[Any]:
        assert not _reserve, "a reserved slot would have to be given back"
        pending = SimpleNamespace(args=list(args), routing_context=SimpleNamespace(should_backoff=False))
        while not (ranks := await self.router.choose_replicas(list(self.replicas.values()), pending)):
            assert pending.routing_context.should_backoff, "Serve's router would ask again without a pause"
            await asyncio.sleep(0.005)
        [[chosen]] = ranks
        yield SimpleNamespace(replica_id=chosen.replica_id.unique_id, replica_metadata=chosen.replica_metadata)

    def broadcast(self, method: str) -> Any:
        assert method == "metrics"

        async def results_async(timeout_s: float, return_exceptions: bool) -> list[Any]:
            assert timeout_s > 0 and return_exceptions
            pages = [(name, f'# TYPE up gauge\nup 1\nhits{{of="{name}"}} 2\n') for name in self.replicas]
            return [*pages, RuntimeError("a replica that has just died")]

        return SimpleNamespace(results_async=results_async)

    async def _wake(self) -> None:
        self.woken += 1


Story = Callable[[Crew, httpx.AsyncClient, Fleet], Awaitable[Any]]


def play(story: Story, names: str = "ab", crew: Crew | None = None, least: int = 1, **changes: Any) -> Any:
    """Run a story with a client of a Front over replicas of these names."""

    async def run() -> Any:
        made = crew or Crew()
        for name in names:
            await made.start(name)
        one = served(min_replicas=least, max_replicas=2, max_ongoing_requests=100)
        plan = launch(served=(one,), max_body_bytes=10_000_000, **changes)
        fleet = Fleet(plan, {"tiny": made})
        transport = httpx.ASGITransport(Gateway(fleet, fleet, plan))
        async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=20) as client:
            try:
                async with asyncio.timeout(30):
                    return await story(made, client, fleet)
            finally:
                fleet.lines.close()
                await made.end()

    return asyncio.run(run())


def who(client: httpx.AsyncClient, **body: Any) -> Awaitable[httpx.Response]:
    return client.post(CHAT, json={"do": "who", **body})


def words(answer: httpx.Response) -> list[str]:
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line.startswith("data: {")]
    return [json.loads(one)["choices"][0]["delta"]["content"] for one in events if "choices" in one]


async def until(true: Callable[[], Any]) -> None:
    while not true():
        await asyncio.sleep(0.005)


def receiving(body: bytes, leaves: float = 60.0) -> Callable[[], Awaitable[Any]]:
    """A `receive` that gives a body, and after a time the news that the client has left."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await asyncio.sleep(leaves)
        return {"type": "http.disconnect"}

    return receive
