"""An endpoint of FakeReplicas under Ray Serve, and its clients: what the tests of replicas and of canaries share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from unittest import mock

import httpx

from serving import deploy
from serving.fleet.address import take_port
from serving.launch import Launch
from tests.serving.fake_engine import CHAT, launch, served
from tests.serving.fake_fleet import FakeReplica


@contextlib.contextmanager
def running(name: str, least: int, most: int, **changes: Any) -> Iterator[tuple[Launch, Any]]:
    """An endpoint whose replicas are FakeReplicas, and Serve's handle of its Front."""
    one = served(min_replicas=least, max_replicas=most, max_ongoing_requests=100)
    plan = launch(
        name=name, served=(one,), port=take_port("127.0.0.1", 0), max_queued_requests=200, hold_seconds=60.0, **changes
    )
    deploy._quieten_serve()
    with mock.patch("serving.fleet.replica.Replica", FakeReplica):
        front = deploy._deploy(plan)
    processes: dict[int, int] = {}
    try:
        handle = deploy.wait_running(plan, front)
        processes.update({pid: deploy.born(pid) for pid in pids(handle)})
        yield plan, handle
    finally:
        deploy._end(name, processes)


def pids(front: Any) -> list[int]:
    """The Front's process, and those of the replicas that are there now."""
    return list(front.process_ids.remote().result(timeout_s=30))


@contextlib.asynccontextmanager
async def client(plan: Launch) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=plan.url, timeout=60, limits=limits) as made, asyncio.timeout(200):
        yield made


def ask(http: httpx.AsyncClient, **body: Any) -> Awaitable[httpx.Response]:
    return http.post(CHAT, json={"do": "slow", **body})


async def until(true: Callable[[], Awaitable[bool]], what: str) -> float:
    """Wait for something; the seconds that it took."""
    started = time.monotonic()
    while not await true():
        assert time.monotonic() < started + 60, what
        await asyncio.sleep(0.05)
    return time.monotonic() - started


async def crew(http: httpx.AsyncClient, number: int = 8) -> set[str]:
    """The replicas that answer."""
    answers = await asyncio.gather(*(ask(http, tokens=1, seconds=0.02) for _ in range(number)))
    return {answer.json()["who"] for answer in answers}
