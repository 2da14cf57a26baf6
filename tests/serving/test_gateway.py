"""The gateway around an engine that is a few lines of ASGI: who gets in, what is refused and how, what never gets out."""

from __future__ import annotations

import asyncio
import json

import pytest

from serving.door.gateway import Gateway
from serving.door.limits import Rate
from tests.serving.fake_engine import CHAT, FINGERPRINT, KEY, FakeEngine, hashed, is_openai_error, launch, talk


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", f"Basic {KEY}", KEY, "Bearer", f"Bearer {KEY}x", "Bearer \u00fc"]
)
def test_without_a_right_key_nothing_reaches_the_engine(header):
    engine = FakeEngine()
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    answer = talk(
        engine, lambda client: client.post(CHAT, json={}, headers=headers), key_hashes=hashed("other" * 5, KEY)
    )
    assert answer.status_code == 401
    assert is_openai_error(answer)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert engine.seen == []


def test_each_right_key_is_let_in():
    for key in (KEY, "other" * 5):
        answer = talk(FakeEngine(), lambda c, key=key: c.post(CHAT, json={"a": 1}, headers={"authorization": f"bearer {key}"}), key_hashes=hashed(KEY, "other" * 5))  # fmt: skip
        assert answer.json() == {"echo": {"a": 1}}


def test_health_needs_no_key_and_metrics_do():
    async def story(client):
        return [(await client.get(path)).status_code for path in ("/health", "/ready", "/metrics", "/v1/models")]

    assert talk(FakeEngine(), story, key_hashes=hashed(KEY)) == [200, 200, 401, 401]


def test_every_answer_carries_the_fingerprint():
    async def story(client):
        asked = [
            client.get("/health"),
            client.get("/v1/models"),
            client.get("/nope"),
            client.post(CHAT, json={"do": "500"}),
        ]
        return [(await one).headers["x-manta-fingerprint"] for one in asked]

    assert talk(FakeEngine(), story) == [FINGERPRINT] * 4


@pytest.mark.parametrize(
    "path",
    ["/playground/", "/nope", "/v1/load_lora_adapter", "/invocations", "/scale_elastic_ep", "/v1/models/", "/docs"],
)
def test_what_is_not_a_route_of_ours_stays_closed(path):
    engine = FakeEngine()
    answer = talk(engine, lambda client: client.post(path, json={}))
    assert answer.status_code == 404
    assert is_openai_error(answer)
    assert engine.seen == []


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("POST", "/")])
def test_wrong_method(method, path):
    answer = talk(FakeEngine(), lambda client: client.request(method, path))
    assert answer.status_code == 405
    assert is_openai_error(answer)


def test_a_body_over_the_limit_is_refused_by_its_header_and_while_it_arrives():
    engine = FakeEngine()

    async def endless():
        for _ in range(50):
            yield b"x" * 100

    async def story(client):
        return [await client.post(CHAT, content=b"x" * 1001), await client.post(CHAT, content=endless())]

    for answer in talk(engine, story):
        assert answer.status_code == 413
        assert is_openai_error(answer)
    assert engine.seen == []


def test_a_declared_length_is_refused_before_anything_is_read():
    async def play():
        sent = []

        async def receive():
            raise AssertionError("the body was read")

        async def send(message):
            sent.append(message)

        gateway = Gateway(FakeEngine(), FakeEngine(), launch())
        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [(b"content-length", b"10000000")]}
        await gateway(scope, receive, send)
        return sent[0]["status"]

    assert asyncio.run(play()) == 413


def test_a_body_of_exactly_the_limit_arrives_whole_also_in_pieces():
    body = b'{"a": "' + b"x" * (1000 - 9) + b'"}'

    async def pieces():
        for start in range(0, len(body), 99):
            yield body[start : start + 99]

    answer = talk(FakeEngine(), lambda client: client.post(CHAT, content=pieces()))
    assert answer.json()["echo"] == json.loads(body)


def test_a_client_that_never_sends_its_body_is_let_go(monkeypatch):
    monkeypatch.setattr("serving.door.answers.BODY_SECONDS", 0.05)

    async def forever():
        yield b"{"
        await asyncio.sleep(3600)

    answer = talk(FakeEngine(), lambda client: client.post(CHAT, content=forever()))
    assert answer.status_code == 408
    assert is_openai_error(answer)


def test_rate_is_per_key_and_refills():
    now = [0.0]
    headers = [{"authorization": f"Bearer {key}"} for key in (KEY, "other" * 5)]

    async def story(client):
        first = [await client.post(CHAT, json={}, headers=headers[0]) for _ in range(4)]
        other = await client.post(CHAT, json={}, headers=headers[1])
        now[0] += int(first[-1].headers["retry-after"])
        return first, other, await client.post(CHAT, json={}, headers=headers[0])

    first, other, later = talk(
        FakeEngine(), story, clock=lambda: now[0], requests_per_minute=3, key_hashes=hashed(KEY, "other" * 5)
    )
    assert [answer.status_code for answer in first] == [200, 200, 200, 429]
    assert is_openai_error(first[-1])
    assert other.status_code == later.status_code == 200


def test_rate_never_saves_up_more_than_a_minute():
    now = [0.0]
    rate = Rate(2, lambda: now[0])
    now[0] = 1e6
    assert [rate.take("a") for _ in range(3)] == [0, 0, 30]


def test_beyond_the_queue_is_503_and_the_place_is_free_again_afterwards():
    engine = FakeEngine()

    async def story(client):
        engine.hold = asyncio.Event()
        working = [asyncio.create_task(client.post(CHAT, json={})) for _ in range(3)]
        while len(engine.seen) < 3:
            await asyncio.sleep(0)
        refused = await client.post(CHAT, json={})
        health = await client.get("/health")
        engine.hold.set()
        answered = [(await task).status_code for task in working]
        return refused, health, answered, await client.post(CHAT, json={})

    refused, health, answered, after = talk(engine, story)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert is_openai_error(refused)
    assert health.status_code == 200
    assert answered == [200, 200, 200]
    assert after.status_code == 200


@pytest.mark.parametrize("what", ["raise", "500"])
@pytest.mark.parametrize(("alive", "status"), [(True, 500), (False, 503)])
def test_internal_errors_never_leave(what, alive, status):
    engine = FakeEngine()
    engine.is_alive = alive
    answer = talk(engine, lambda client: client.post(CHAT, json={"do": what}))
    assert answer.status_code == status
    assert is_openai_error(answer)
    assert ("retry-after" in answer.headers) is not alive


def test_a_stream_that_breaks_ends_with_an_error_event():
    answer = talk(FakeEngine(), lambda client: client.post(CHAT, json={"do": "break"}))
    first, last = answer.text.strip().split("\n\n")
    assert json.loads(first.removeprefix("data: "))["choices"]
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"


def test_a_failed_request_gives_its_place_back():
    async def story(client):
        for _ in range(5):
            await client.post(CHAT, json={"do": "raise"})
        return await client.post(CHAT, json={})

    assert talk(FakeEngine(), story).status_code == 200


def test_ready_means_that_a_token_was_generated_and_is_remembered_a_moment():
    engine, now = FakeEngine(), [100.0]

    async def story(client):
        seen = [(await client.get("/ready")).status_code for _ in range(3)]
        probes = engine.probes
        engine.generates = False
        now[0] += 10
        return seen, probes, (await client.get("/ready")).status_code, (await client.get("/health")).status_code

    assert talk(engine, story, clock=lambda: now[0]) == ([200] * 3, 1, 503, 200)


def test_a_dead_engine_is_neither_ready_nor_healthy():
    engine = FakeEngine()
    engine.is_alive = False

    async def story(client):
        return (await client.get("/ready")).status_code, (await client.get("/health")).status_code

    assert talk(engine, story) == (503, 503)
    assert engine.probes == 0
