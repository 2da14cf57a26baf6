"""Replicas and engines that fail behind a Front: another one answers, and what had begun says that it broke off."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from serving.fleet import team
from serving.fleet.private import PROBE
from tests.serving.fake_engine import CHAT, is_openai_error
from tests.serving.fake_fleet import play, until, who, words


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
            await until(lambda: len(crew.runners["a"].seen) == 5)
            await crew.kill("a")
            return await asyncio.gather(*held)

        answers = play(story)
        assert [answer.json() for answer in answers] == [{"who": "b"}] * 10

    def test_a_stream_that_has_sent_nothing_is_asked_elsewhere(self):
        async def story(crew, client, fleet):
            body = {"do": "slow", "stream": True, "tokens": 2, "seconds": 0.3}
            held = asyncio.create_task(client.post(CHAT, json=body))
            await until(lambda: crew.runners["a"].seen or crew.runners["b"].seen)
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
            await until(lambda: len(crew.runners["a"].seen) == 2)
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
