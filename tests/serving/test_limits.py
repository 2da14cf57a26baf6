"""Requests and tokens a minute for each key, and what clients are told about them."""

from __future__ import annotations

import asyncio
import json

import pytest

from serving.door import keys, limits
from serving.door.gateway import Gateway
from serving.door.keys import ANONYMOUS
from serving.door.limits import Rate
from tests.serving.fake_engine import CHAT, USAGE, FakeEngine, bearer, is_openai_error, launch, talk

SPENT = sum(USAGE)


@pytest.fixture
def now() -> list[float]:
    return [100.0]


def test_a_keys_own_limits_replace_the_recipes(tmp_path, now):
    file = str(tmp_path / "keys")
    one, many = (bearer(keys.create(file, "x", requests_per_minute=limit)[1]) for limit in (1, None))

    async def story(client):
        return [(await client.post(CHAT, json={}, headers=who)).status_code for who in (one, one, many, many, many)]

    found = talk(FakeEngine(), story, lambda: now[0], keys_file=file, requests_per_minute=2)
    assert found == [200, 429, 200, 200, 429]


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_are_those_that_were_used_in_streams_too(stream, now):
    """The longest answer is reserved at first; what was not used is given back."""
    body = {"stream": stream, "max_tokens": 40}

    async def story(client):
        first = await client.post(CHAT, json=body)
        second = await client.post(CHAT, json=body)
        third = await client.post(CHAT, json=body)
        now[0] += int(third.headers["retry-after"])
        return first, second, third, await client.post(CHAT, json=body)

    first, second, third, later = talk(FakeEngine(), story, lambda: now[0], tokens_per_minute=60)
    reserved = limits.estimate(json.dumps(body, separators=(",", ":")).encode(), body)
    assert first.headers["x-ratelimit-limit-tokens"] == "60"
    assert first.headers["x-ratelimit-remaining-tokens"] == str(60 - reserved)
    assert second.status_code == 200
    assert second.headers["x-ratelimit-remaining-tokens"] == str(60 - SPENT - reserved)
    assert third.status_code == 429, "two answers leave less than a third may need"
    assert is_openai_error(third) and third.json()["error"]["code"] == "token_limit_exceeded"
    assert third.headers["x-ratelimit-remaining-tokens"] == str(60 - 2 * SPENT)
    assert later.status_code == 200


def test_a_stream_shows_its_client_nothing_of_the_counting():
    answer = talk(FakeEngine(), lambda client: client.post(CHAT, json={"stream": True}), tokens_per_minute=60)
    assert "usage" not in answer.text and answer.text.endswith("data: [DONE]\n\n")


def test_a_refused_request_costs_no_tokens(now):
    async def story(client):
        refused = [await client.post(CHAT, json={"do": "400", "max_tokens": 30}) for _ in range(5)]
        return [answer.status_code for answer in refused], await client.post(CHAT, json={"max_tokens": 30})

    seen, after = talk(FakeEngine(), story, lambda: now[0], tokens_per_minute=60)
    assert seen == [400] * 5
    assert after.status_code == 200


def test_an_answer_that_was_cut_off_is_paid_for(now):
    async def story(client):
        cut = await client.post(CHAT, json={"do": "forever", "max_tokens": 50})
        return cut, await client.post(CHAT, json={"max_tokens": 50})

    cut, after = talk(FakeEngine(), story, lambda: now[0], tokens_per_minute=60, request_seconds=0.05)
    assert cut.status_code == 504
    assert after.status_code == 429


def test_a_client_that_leaves_pays_for_what_it_had(now):
    """However the server tells it: by a message, or by cancelling the request as Serve's proxies do."""

    async def play(leaves):
        engine = FakeEngine()
        gateway = Gateway(engine, engine, launch(tokens_per_minute=60), lambda: now[0])
        body = json.dumps({"do": "stream forever", "stream": True, "max_tokens": 40}).encode()
        messages = [{"type": "http.request", "body": body}]

        async def receive():
            if messages:
                return messages.pop()
            await (asyncio.sleep(0) if leaves else asyncio.Event().wait())
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        sent = []
        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": []}
        task = asyncio.create_task(gateway(scope, receive, send))
        while len(sent) < 2:
            await asyncio.sleep(0)
        if not leaves:
            task.cancel()
        await asyncio.wait({task})
        return dict(gateway.limits.headers(ANONYMOUS))[b"x-ratelimit-remaining-tokens"], body, gateway.working

    for leaves in (True, False):
        left, body, working = asyncio.run(play(leaves))
        assert int(left) == 60 - limits.prompt_estimate(body) - 1
        assert working == {"tiny": 0}


def test_request_headers_are_openais(now):
    async def story(client):
        return [await client.post(CHAT, json={}) for _ in range(3)]

    first, _, third = talk(FakeEngine(), story, lambda: now[0], requests_per_minute=2)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-reset-requests"] == "30s"
    assert third.status_code == 429
    assert third.headers["x-ratelimit-reset-requests"] == "1m0s"
    assert "x-ratelimit-limit-tokens" not in first.headers


def test_who_has_overdrawn_waits_until_it_is_paid_back(now):
    rate = Rate(60, lambda: now[0])
    assert rate.take("a", 10) == 0
    rate.settle("a", 110)
    assert rate.take("a", 1) == 61
    now[0] += 61
    assert rate.take("a", 1) == 0


def test_a_request_larger_than_the_limit_waits_for_a_full_bucket_only(now):
    rate = Rate(60, lambda: now[0])
    assert [rate.take("a", 1000), rate.take("a", 1)] == [0, 941]


def test_giving_back_never_fills_more_than_a_minute(now):
    rate = Rate(60, lambda: now[0])
    rate.settle("a", -1000)
    assert rate.headers("a", "tokens")[1] == (b"x-ratelimit-remaining-tokens", b"60")


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [
        ({}, 3), ({"max_tokens": 10}, 13), ({"max_completion_tokens": 20, "max_tokens": 10}, 23), ({"max_tokens": 5, "n": 4}, 23),
        ({"max_tokens": 5, "n": 2, "prompt": ["a", "b", "c"]}, 33), ({"max_tokens": 5, "prompt": [[1, 2], [3]]}, 13),
        ({"max_tokens": 5, "prompt": [1, 2, 3]}, 8), ({"max_tokens": 5, "prompt": []}, 8),
        ({"max_tokens": "many", "n": None}, 3), ({"max_tokens": -5}, 3), ({"max_tokens": True}, 3), ({"max_tokens": 10**400}, 3),
    ],
)  # fmt: skip
def test_what_a_request_may_use(asked, tokens):
    assert limits.estimate(b"x" * 8, asked) == tokens


@pytest.mark.parametrize(("asked", "status"), [({"n": 128}, 200), ({"n": 129}, 400), ({"prompt": ["a"] * 129}, 400)])
def test_one_request_does_not_ask_for_the_work_of_thousands(asked, status):
    engine = FakeEngine()
    answer = talk(engine, lambda client: client.post("/v1/completions", json=asked), max_body_bytes=10_000)
    assert (answer.status_code, len(engine.seen)) == (status, int(status == 200))
    if status == 400:
        assert answer.json()["error"]["code"] == "too_many_answers" and "128" in answer.json()["error"]["message"]
