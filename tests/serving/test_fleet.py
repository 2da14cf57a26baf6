"""A Front over replicas in this process, with real connections: who answers, and what clients notice of those that fail."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any

import pytest

from serving.fleet import relay, team
from tests.serving.fake_engine import CHAT, USAGE, is_openai_error
from tests.serving.fake_fleet import play, receiving, until, who, words


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

    def test_an_answer_is_signed_by_the_replica_that_gave_it(self):
        """While a model is replaced, replicas of both versions answer."""

        async def story(crew, client, fleet):
            answers = [await who(client, stream=stream) for stream in (False, True) for _ in range(8)]
            return [(answer.headers.get_list("x-manta-fingerprint"), answer.text) for answer in answers]

        found = play(story)
        assert {name for [name], _ in found} == {"a" * 64, "b" * 64}
        assert all(f'"{name[0]}"' in text for [name], text in found if "who" in text)

    def test_connections_are_kept(self):
        async def story(crew, client, fleet):
            for _ in range(5):
                await who(client)
            return [len(idle) for idle in fleet.lines._idle.values()], crew

        kept, crew = play(story, names="a")
        assert kept == [1] and len(crew.runners["a"].seen) == 5

    def test_a_connection_that_the_replica_closed_as_idle_is_no_loss(self, monkeypatch):
        monkeypatch.setattr("serving.door.server.KEEP_ALIVE_SECONDS", 0.05)

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
            await until(lambda: crew.runners["a"].seen)
            asking.cancel()
            await until(lambda: crew.runners["a"].stopped == 1)
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
            await fleet(scope, receiving(body), send)
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
            await until(lambda: crew.runners["a"].seen)
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
            await until(lambda: crew.woken)
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
            receive = receiving(b"{}", leaves=0.05)
            started = time.monotonic()
            scope = {"path": CHAT, "method": "POST", "headers": [], "state": {"model": "tiny", "tokens": 0}}
            await fleet(scope, receive, None)
            return time.monotonic() - started

        assert play(story, names="", hold_seconds=20) < 10


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
        monkeypatch.setattr("serving.fleet.fleet.PROBE_SECONDS", 0.1)
        monkeypatch.setattr("serving.fleet.fleet.ALIVE_SECONDS", 0.1)

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
