"""Replicas under Ray Serve, with runners that start at once: faults under load, ports and cores, their number and its end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import httpx
import psutil
import pytest

from manta.errors import StageFailed
from manta.progress import Progress
from serving import deploy, update
from serving.fleet.address import is_loopback, take_port
from serving.fleet.scale import Scale
from serving.launch import Launch
from tests.serving.fake_engine import CHAT, FINGERPRINT, launch, served
from tests.serving.fake_fleet import DAMAGED, LOADING, FakeReplica
from tests.serving.fake_serve import ask, client, crew, pids, running, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def pair(ray_session: Any) -> Iterator[tuple[Launch, Any]]:
    """Two replicas, always."""
    with running("pair", 2, 2) as made:
        yield made


def test_nothing_listens_but_on_loopback(pair):
    plan, front = pair
    session = psutil.Process().children(recursive=True)
    tree = [process for process in psutil.process_iter() if process.pid in pids(front) or process in session]
    listening = {(process.name(), place) for process in tree for place in _listening(process)}
    assert plan.port in {port for _, (_, port) in listening}
    assert len(listening) > 4 and not [one for one in listening if not is_loopback(one[1][0].removeprefix("::ffff:"))]


def _listening(process: psutil.Process) -> list[tuple[str, int]]:
    with contextlib.suppress(psutil.Error):
        return [one.laddr for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    return []


def test_replicas_have_cores_of_their_own(pair):
    async def story():
        async with client(pair[0]) as http:
            answers = [(await ask(http)).json() for _ in range(20)]
        return {one["who"]: tuple(one["cores"]) for one in answers}

    bound = asyncio.run(story())
    assert len(bound) == 2
    if len(os.sched_getaffinity(0)) >= 2:
        first, second = bound.values()
        assert len(first) == len(second) == 1 and first != second


def test_a_killed_replica_under_load_fails_no_request_and_is_replaced(pair):
    plan, front = pair
    front_pid, victim, _ = pids(front)

    async def story():
        async with client(plan) as http:
            begun = asyncio.Event()

            async def one(number: int) -> httpx.Response:
                if number == 100:
                    os.kill(victim, signal.SIGKILL)
                return await ask(http, tokens=2, seconds=0.01)

            async def some(number: int) -> list[httpx.Response]:
                return [await one(number + step) for step in range(0, 500, 16)]

            answers = [
                answer for group in await asyncio.gather(*(some(number) for number in range(16))) for answer in group
            ]
            assert not begun.is_set()

            async def two() -> bool:
                return len(await crew(http)) == 2

            return answers, await until(two, "Serve did not replace the replica")

    answers, _ = asyncio.run(story())
    assert len(answers) >= 500 and Counter(answer.status_code for answer in answers) == {200: len(answers)}
    assert front_pid == pids(front)[0] and victim not in pids(front)


def test_streams_of_a_killed_replica_end_and_say_so(pair):
    plan, front = pair
    victim = pids(front)[1]

    async def story():
        async with client(plan) as http:
            body = {"stream": True, "tokens": 60, "seconds": 0.02}
            streams = [asyncio.create_task(ask(http, **body)) for _ in range(20)]
            await asyncio.sleep(0.6)
            os.kill(victim, signal.SIGKILL)
            return await asyncio.gather(*streams)

    texts = [answer.text for answer in asyncio.run(story())]
    whole = [text for text in texts if text.endswith("data: [DONE]\n\n") and "error" not in text]
    broken = [text for text in texts if text.count('data: {"error"') == 1 and "[DONE]" not in text]
    assert len(whole) == len(broken) == 10
    assert not [text for text in whole if f'"{victim} "' in text]


def test_a_dead_engine_is_out_of_rotation_at_once(pair):
    plan, _ = pair

    async def story():
        async with client(plan) as http:

            async def two() -> bool:
                return len(await crew(http)) == 2

            await until(two, "there are not two replicas")
            killer = await http.post(CHAT, json={"do": "engine dies"})  # one, and the other that it is given to
            started = time.monotonic()
            after = await ask(http)
            return killer, after, time.monotonic() - started

    killer, after, _ = asyncio.run(story())
    assert killer.status_code == 500 and killer.headers["x-should-retry"] == "false"
    assert after.status_code == 200, "it waits for a new replica"


def test_another_front_takes_over_the_port(pair):
    """Last of these two: afterwards the Front is another, and the handle of it too."""
    plan, front = pair
    os.kill(pids(front)[0], signal.SIGKILL)

    async def answers() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            async with client(plan) as http:
                return (await ask(http)).status_code == 200
        return False

    asyncio.run(until(answers, "no Front listens"))


def test_their_number_follows_the_load_and_no_stream_is_dropped(ray_session):
    """By the tokens that are still to be made: few requests, of which each says that it will be long."""
    scale = Scale(target_requests=1000, target_tokens=400, target_ttft_ms=None, up_seconds=1.0, down_seconds=2.0)
    seen: dict[str, float] = {}

    async def story(plan: Launch):
        async with client(plan) as http:
            streams: list[asyncio.Task[httpx.Response]] = []

            async def loaded() -> bool:
                streams.extend(
                    asyncio.create_task(ask(http, stream=True, tokens=50, seconds=0.05, max_tokens=300))
                    for _ in range(2)
                )
                found = await asyncio.gather(*(ask(http, tokens=1, seconds=0.05) for _ in range(4)))
                return len({answer.json()["who"] for answer in found}) == 2

            seen["up"] = await until(loaded, "there is no second replica")
            # Two streams that last, one on each, and say little of themselves: work for one replica.
            streams += [asyncio.create_task(ask(http, stream=True, tokens=200, seconds=0.05)) for _ in range(2)]
            answers = await asyncio.gather(*streams)

            async def alone() -> bool:
                return len(await crew(http, 4)) == 1

            seen["down"] = await until(alone, "there are still two replicas")
            return [answer.text for answer in answers]

    with running("scaled", 1, 2, scale=scale) as (plan, _):
        texts = asyncio.run(story(plan))
    assert [text for text in texts if not text.endswith("data: [DONE]\n\n")] == []


def test_an_update_fails_no_request_and_one_that_does_not_start_changes_nothing(ray_session, serve_recipe, tmp_path):
    recipe = serve_recipe(tmp_path, tmp_path, front=True)
    new, bad = "cd" * 32, "ef" * 32
    seen: list[tuple[int, str, str]] = []  # of each request: status, fingerprint, who
    stop = asyncio.Event()

    async def keep_asking(plan: Launch) -> None:
        async with client(plan) as http:
            while not stop.is_set():
                answer = await ask(http, tokens=2, seconds=0.01)
                seen.append((answer.status_code, answer.headers["x-manta-fingerprint"], answer.json().get("who", "")))

    def become(was: deploy.Running, fingerprint: str, model: str) -> deploy.Running:
        one = dataclasses.replace(was.launch.served[0], fingerprint=fingerprint, model=model)
        plan = dataclasses.replace(was.launch, served=(one,))
        with (
            mock.patch("serving.fleet.replica.Replica", FakeReplica),
            mock.patch("serving.update.launches.prepare", return_value=plan),
        ):
            return update.update(was, recipe, Progress(quiet=True))

    async def story(was: deploy.Running, front: Any):
        asking = [asyncio.create_task(keep_asking(was.launch)) for _ in range(4)]
        now = await asyncio.to_thread(become, was, new, "/m")
        changed, after = len(seen), await asyncio.to_thread(pids, front)
        with pytest.raises(StageFailed, match=r"the weights are damaged.*goes on as it was"):
            await asyncio.to_thread(become, now, bad, DAMAGED)
        await asyncio.sleep(0.5)
        stop.set()
        await asyncio.gather(*asking)
        return changed, after

    with running("updated", 1, 1, front=True) as (plan, front):
        before = pids(front)
        changed, after = asyncio.run(story(deploy.Running(plan.url, plan, 0.0, {}), front))
        assert pids(front) == after and before[0] == after[0] and before[1] != after[1]
    assert {status for status, _, _ in seen} == {200} and len(seen) > changed + 10
    assert {found for _, found, _ in seen[:5]} == {FINGERPRINT} and {found for _, found, _ in seen[changed:]} == {new}
    assert {(found, name) for _, found, name in seen} == {(FINGERPRINT, str(before[1])), (new, str(after[1]))}


def test_none_is_enough_where_nobody_asks(ray_session):
    scale = Scale(target_requests=4, target_tokens=None, target_ttft_ms=None, up_seconds=1.0, down_seconds=1.0)

    async def story(plan: Launch, front: Any):
        async def asleep() -> bool:
            return len(await asyncio.to_thread(pids, front)) == 1

        async with client(plan) as http:
            await until(asleep, "the last replica does not end")
            health = await http.get("/health")
            return health, await asyncio.gather(*(ask(http) for _ in range(5)))

    with running("sleepy", 0, 1, scale=scale) as (plan, front):
        health, answers = asyncio.run(story(plan, front))
    assert health.status_code == 200 and [answer.status_code for answer in answers] == [200] * 5


def test_who_stops_it_while_it_starts_does_not_wait_for_the_model(ray_session, tmp_path, wait_until):
    loads = tmp_path / "loads"
    one = served(model=f"{LOADING}{loads}")
    plan = launch(name="unready", served=(one,), port=take_port("127.0.0.1", 0), front=True)
    deploy._quieten_serve()
    with mock.patch("serving.fleet.replica.Replica", FakeReplica):
        deploy._deploy(plan)
    wait_until(loads.exists, seconds=90, what="no replica starts")
    started = time.monotonic()
    deploy._end("unready", {}, begun=False)
    assert time.monotonic() - started < 25, "Serve gives up after thirty seconds"
    assert "unready" not in deploy._applications()
