"""A Front over replicas in this process, with real connections: who answers, and what clients notice of those that fail."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from serving import relay, team
from serving.fleet import Fleet
from serving.gateway import Gateway
from serving.private import PROBE
from tests.serving.fake_engine import CHAT, USAGE, is_openai_error, launch, served
from tests.serving.fake_fleet import Crew

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


class TestCarrying:
    def test_an_answer_comes_back_whole(self):
        async def story(crew, client, fleet):
            return await client.post(CHAT, json={"text": "x" * 300_000})

        answer = play(story)
        assert answer.json()["echo"]["text"] == "x" * 300_000

    def test_a_stream_comes_piece_by_piece_and_hides_what_is_between_front_and_replica(self):
        async def story(crew, client, fleet):
            return await client.post(CHAT, json={"do": "slow", "stream": True, "tokens": 3})

        answer = play(story, names="a")
        assert words(answer) == ["a "] * 3
        assert answer.text.endswith("data: [DONE]\n\n")
        assert "usage" not in answer.text and not [
            name for name in answer.headers if "token" in name or "usage" in name
        ]

    @pytest.mark.parametrize("stream", [True, False])
    def test_the_gateway_learns_what_was_used(self, stream):
        async def story(crew, client, fleet):
            await who(client, stream=stream)
            return await client.get("/metrics")

        text = play(story).text
        assert f'manta_completion_tokens_total{{key="anonymous",model="tiny"}} {float(USAGE[1])}' in text

    def test_connections_are_kept(self):
        async def story(crew, client, fleet):
            for _ in range(5):
                await who(client)
            return [len(idle) for idle in fleet.lines._idle.values()], crew

        kept, crew = play(story, names="a")
        assert kept == [1] and len(crew.runners["a"].seen) == 5

    def test_a_connection_that_the_replica_closed_as_idle_is_no_loss(self, monkeypatch):
        monkeypatch.setattr("serving.server.KEEP_ALIVE_SECONDS", 0.05)

        async def story(crew, client, fleet):
            first = await who(client)
            await asyncio.sleep(0.2)
            return first, await who(client), fleet.teams["tiny"].lost

        first, second, lost = play(story, names="a")
        assert (first.status_code, second.status_code) == (200, 200) and not lost

    def test_errors_about_the_request_pass_and_those_of_the_engine_do_not(self):
        async def story(crew, client, fleet):
            return [await client.post(CHAT, json={"do": do}) for do in ("400", "500", "raise")], fleet.teams[
                "tiny"
            ].lost

        (bad, failed, raised), lost = play(story)
        assert (bad.status_code, bad.json()["error"]["message"]) == (400, "no")
        assert failed.status_code == raised.status_code == 500 and is_openai_error(failed) and is_openai_error(raised)
        assert not lost, "a replica whose engine lives is asked again"

    def test_who_leaves_stops_the_replica(self):
        async def story(crew, client, fleet):
            asking = asyncio.create_task(client.post(CHAT, json={"do": "forever"}))
            await _until(lambda: crew.runners["a"].seen)
            asking.cancel()
            await _until(lambda: crew.runners["a"].stopped == 1)
            return fleet.teams["tiny"].busy

        assert not +play(story, names="a")

    def test_a_client_that_reads_slowly_has_the_replica_wait(self, monkeypatch):
        monkeypatch.setattr(relay, "HIGH_WATER", 1000)

        async def story(crew, client, fleet):
            pauses: list[int] = []
            sent: list[bytes] = []

            async def send(message):
                sent.append(message.get("body", b""))
                await asyncio.sleep(0.001 if len(sent) % 20 == 0 else 0)
                pauses.append(sum(connection._held for connection in made))

            made: list[Any] = []
            take = fleet.lines.take

            async def noted(*args):
                made.append(await take(*args))
                return made[-1]

            fleet.lines.take = noted
            body = json.dumps({"do": "slow", "stream": True, "tokens": 6000}).encode()
            scope = {"path": CHAT, "method": "POST", "headers": [], "state": {"model": "tiny", "tokens": 0}}
            await fleet(scope, _receiving(body), send)
            return b"".join(sent), max(pauses)

        text, most = play(story, names="a")
        assert text.count(b'"a "') == 6000 and len(text) > 800_000
        assert most < 300_000, "asyncio reads at most 256 KiB at once"


class TestChoosing:
    def test_requests_go_where_there_are_fewest(self):
        async def story(crew, client, fleet):
            slow = [
                asyncio.create_task(client.post(CHAT, json={"do": "slow", "tokens": 1, "seconds": 0.3}))
                for _ in range(8)
            ]
            answers = await asyncio.gather(*slow)
            return Counter(answer.json()["who"] for answer in answers)

        assert play(story) == {"a": 4, "b": 4}

    def test_a_second_replica_is_used_as_soon_as_it_is_there(self):
        async def story(crew, client, fleet):
            held = asyncio.create_task(client.post(CHAT, json={"do": "slow", "tokens": 1, "seconds": 0.5}))
            await _until(lambda: crew.runners["a"].seen)
            await crew.start("b")
            return (await who(client)).json()["who"], (await held).json()["who"]

        assert play(story, names="a") == ("b", "a")

    def test_without_a_replica_a_request_waits_for_one(self):
        async def story(crew, client, fleet):
            asking = asyncio.create_task(who(client))
            await asyncio.sleep(0.1)
            assert not asking.done()
            await crew.start("a")
            return await asking, crew.woken

        answer, woken = play(story, names="")
        assert answer.json() == {"who": "a"} and woken == 0

    def test_what_may_scale_to_zero_is_woken(self, monkeypatch):
        monkeypatch.setattr(team, "WAKE_SECONDS", 0.01)

        async def story(crew, client, fleet):
            asking = [asyncio.create_task(who(client)) for _ in range(3)]
            await _until(lambda: crew.woken)
            await crew.start("a")
            return [answer.status_code for answer in await asyncio.gather(*asking)]

        assert play(story, names="", least=0) == [200] * 3

    def test_it_does_not_wait_for_ever(self):
        async def story(crew, client, fleet):
            return await who(client)

        answer = play(story, names="", hold_seconds=0.1)
        assert answer.status_code == 503 and is_openai_error(answer)
        assert answer.json()["error"]["code"] == "unavailable" and answer.headers["retry-after"] == "5"

    def test_who_leaves_while_waiting_waits_no_more(self):
        async def story(crew, client, fleet):
            receive = _receiving(b"{}", leaves=0.05)
            started = time.monotonic()
            scope = {"path": CHAT, "method": "POST", "headers": [], "state": {"model": "tiny"}}
            await fleet(scope, receive, None)
            return time.monotonic() - started

        assert play(story, names="", hold_seconds=20) < 10


class TestLosing:
    def test_a_dead_replica_is_replaced_for_the_client_and_asked_no_more(self):
        async def story(crew, client, fleet):
            await crew.kill("a")
            answers = [await who(client) for _ in range(20)]
            return {answer.json()["who"] for answer in answers}, list(fleet.teams["tiny"].lost)

        assert play(story) == ({"b"}, ["a"])

    def test_requests_on_their_way_are_asked_elsewhere(self):
        async def story(crew, client, fleet):
            body = {"do": "slow", "tokens": 1, "seconds": 0.4}
            held = [asyncio.create_task(client.post(CHAT, json=body)) for _ in range(10)]
            await _until(lambda: len(crew.runners["a"].seen) == 5)
            await crew.kill("a")
            return await asyncio.gather(*held)

        answers = play(story)
        assert [answer.json() for answer in answers] == [{"who": "b"}] * 10

    def test_a_stream_that_has_sent_nothing_is_asked_elsewhere(self):
        async def story(crew, client, fleet):
            body = {"do": "slow", "stream": True, "tokens": 2, "seconds": 0.3}
            held = asyncio.create_task(client.post(CHAT, json=body))
            await _until(lambda: crew.runners["a"].seen or crew.runners["b"].seen)
            first = "a" if crew.runners["a"].seen else "b"
            await crew.kill(first)
            return first, await held

        first, answer = play(story)
        assert words(answer) == ["b " if first == "a" else "a "] * 2 and answer.text.endswith("[DONE]\n\n")

    def test_a_stream_that_has_begun_ends_with_an_error_event(self):
        async def story(crew, client, fleet):
            body = {"do": "slow", "stream": True, "tokens": 50, "seconds": 0.02}
            held = asyncio.create_task(client.post(CHAT, json=body))
            await asyncio.sleep(0.2)
            await crew.kill("a")
            return await held

        answer = play(story, names="a")
        assert 0 < len(words(answer)) < 50
        assert answer.text.count('"error"') == 1 and "[DONE]" not in answer.text

    def test_a_dead_engine_is_not_the_clients_business(self):
        async def story(crew, client, fleet):
            crew.runners["a"].is_alive = False
            return [(await who(client)).json() for _ in range(10)], crew.runners["a"].seen

        answers, seen = play(story)
        assert answers == [{"who": "b"}] * 10 and seen == []

    @pytest.mark.parametrize("stream", [True, False])
    def test_an_engine_that_dies_at_work_is_not_either(self, stream):
        async def story(crew, client, fleet):
            body = {"do": "slow", "stream": stream, "tokens": 1, "seconds": 0.3}
            held = [asyncio.create_task(client.post(CHAT, json=body)) for _ in range(4)]
            await _until(lambda: len(crew.runners["a"].seen) == 2)
            crew.runners["a"].is_alive = False
            return await asyncio.gather(*held)

        answers = play(story)
        assert all(
            answer.status_code == 200 and "a " not in answer.text and '"a"' not in answer.text for answer in answers
        )

    def test_a_request_that_engines_die_of_is_not_given_to_all(self):
        async def story(crew, client, fleet):
            answer = await client.post(CHAT, json={"do": "engine dies"})
            return answer, [one.seen for one in crew.runners.values()], (await who(client)).json()

        answer, seen, after = play(story, names="abc")
        assert answer.status_code == 500 and is_openai_error(answer)
        assert answer.headers["x-should-retry"] == "false"
        assert sum("engine dies" in one for one in seen) == 2 and after["who"] in "abc"

    def test_one_that_is_well_again_is_asked_again(self, monkeypatch):
        monkeypatch.setattr(team, "LOST_SECONDS", 0.05)

        async def story(crew, client, fleet):
            crew.runners["a"].is_alive = False
            asking = asyncio.create_task(who(client))
            await asyncio.sleep(0.1)
            crew.runners["a"].is_alive = True
            return await asking

        assert play(story, names="a").json() == {"who": "a"}

    def test_a_replica_lets_nobody_in_without_its_word(self):
        async def story(crew, client, fleet):
            port = crew.replicas["a"].replica_metadata["port"]
            async with httpx.AsyncClient() as stranger:
                headers = {"x-manta-token": "guess"}
                asked = [
                    await stranger.post(f"http://127.0.0.1:{port}{path}", json={"do": "who"}) for path in (CHAT, PROBE)
                ]
                return [*asked, await stranger.get(f"http://127.0.0.1:{port}/metrics", headers=headers)], crew.runners[
                    "a"
                ].seen

        answers, seen = play(story, names="a")
        assert [answer.status_code for answer in answers] == [403] * 3 and seen == []


class TestHealth:
    def test_ready_is_a_real_answer_of_a_replica(self):
        async def story(crew, client, fleet):
            ready = await client.get("/ready")
            return ready.status_code, sum(one.probes for one in crew.runners.values())

        assert play(story) == (200, 1)

    def test_a_replica_that_gives_none_is_passed_over(self):
        async def story(crew, client, fleet):
            crew.runners["a"].generates = False
            await fleet.generate_once()
            return crew.runners["b"].probes

        assert play(story) >= 1

    def test_without_any_it_is_not_ready(self, monkeypatch):
        monkeypatch.setattr("serving.fleet.PROBE_SECONDS", 0.1)
        monkeypatch.setattr("serving.fleet.ALIVE_SECONDS", 0.1)

        async def story(crew, client, fleet):
            for one in crew.runners.values():
                one.is_alive = False
            return [(await client.get(path)).status_code for path in ("/ready", "/health")]

        assert play(story) == [503, 503]

    def test_a_model_that_may_have_none_is_healthy_without(self):
        async def story(crew, client, fleet):
            return [(await client.get(path)).status_code for path in ("/ready", "/health")]

        assert play(story, names="", least=0) == [200, 200]

    def test_metrics_are_those_of_all_replicas(self):
        async def story(crew, client, fleet):
            return (await client.get("/metrics")).text

        text = play(story)
        assert text.count("# TYPE up gauge") == 1
        for name in "ab":
            assert f'up{{manta_model="tiny",manta_replica="{name}"}} 1\n' in text
            assert f'hits{{manta_model="tiny",manta_replica="{name}",of="{name}"}} 2\n' in text
        assert text.index("# TYPE up") < text.index("up{") < text.index("hits{")


async def _until(true: Callable[[], Any]) -> None:
    while not true():
        await asyncio.sleep(0.005)


def _receiving(body: bytes, leaves: float = 60.0) -> Callable[[], Awaitable[Any]]:
    """A `receive` that gives a body, and after a time the news that the client has left."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await asyncio.sleep(leaves)
        return {"type": "http.disconnect"}

    return receive
