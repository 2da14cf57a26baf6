"""Refusals by a request's headers alone say what the gateway would have said, are counted as its own, and nothing else is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from serving.door import keys
from serving.door.gateway import Gateway
from tests.serving.fake_engine import CHAT, KEY, FakeEngine, hashed, launch

PAGE = b"https://app.example.org"
PLAIN = [(b"host", b"x"), (b"content-length", b"2")]
RIGHT, WRONG = (b"authorization", b"Bearer " + KEY.encode()), (b"authorization", b"Bearer wrong")
Found = tuple[int, dict[bytes, bytes], Any]


def gateway(engine: FakeEngine | None = None, **changes: Any) -> Gateway:
    made = engine or FakeEngine()
    return Gateway(made, made, launch(key_hashes=hashed(KEY), cors_origins=(PAGE.decode(),), **changes))


def by_headers(door: Gateway, method: str, target: str, *headers: tuple[bytes, bytes]) -> Found | None:
    told = door.refuse(method.encode(), target.encode(), [*PLAIN, *headers])
    if told is None:
        return None
    head, _, body = told.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    named = dict(field.split(b": ", 1) for field in fields)
    assert len(named) == len(fields) and int(named.pop(b"content-length")) == len(body)
    assert named.pop(b"connection") == b"close"
    return int(line.split()[1]), named, json.loads(body)


def by_gateway(door: Gateway, method: str, target: str, *headers: tuple[bytes, bytes]) -> Found:
    sent: list[Any] = []

    async def play() -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        path = target.partition("?")[0]
        scope = {"type": "http", "method": method, "path": path, "headers": [*PLAIN, *headers], "state": {}}
        await door(scope, receive, send)

    asyncio.run(play())
    named = dict(sent[0]["headers"])
    named.pop(b"content-length", None)
    named.pop(b"connection", None)
    return sent[0]["status"], named, json.loads(b"".join(part["body"] for part in sent[1:]) or b"null")


def refused(*asked: Any, **changes: Any) -> Found | None:
    """As both ways refuse it, which must be alike; None where the headers are not enough."""

    async def first() -> Found | None:
        return by_headers(gateway(**changes), *asked)

    told = asyncio.run(first())
    if told is not None:
        wanted = by_gateway(gateway(**changes), *asked)
        for _, fields, _ in (told, wanted):
            assert fields.pop(b"x-request-id").startswith(b"req-") or (b"x-request-id", b"mine") in asked
        assert told == wanted
    return told


@pytest.mark.parametrize("headers", [(), (WRONG,), (WRONG, (b"origin", PAGE)), (WRONG, (b"x-request-id", b"mine"))])
@pytest.mark.parametrize(
    ("method", "target"), [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/metrics?a=b"), ("PUT", "/nope")]
)
def test_without_a_right_key(method, target, headers):
    told = refused(method, target, *headers)
    assert told is not None and told[0] == 401
    assert told[1][b"www-authenticate"] == b"Bearer"


@pytest.mark.parametrize("declared", [b"1001", b"9" * 30])
def test_a_body_that_is_declared_too_large(declared):
    told = refused("POST", CHAT, RIGHT, (b"content-length", declared))
    assert told is not None and told[0] == 413


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", "/health", (WRONG,)),
        ("GET", "/", ()),
        ("OPTIONS", CHAT, (WRONG, (b"origin", PAGE))),
        ("HEAD", "/v1/models", (WRONG,)),
        ("POST", "/%68ealth", (WRONG,)),
        ("POST", "http://x/health", (WRONG,)),
        ("POST", CHAT, (RIGHT,)),
        ("GET", CHAT, (RIGHT,)),
        ("GET", "/nope", (RIGHT,)),
        ("GET", "/metrics", (RIGHT,)),
    ],
)
def test_what_else_there_is_goes_to_the_gateway(method, target, headers):
    assert refused(method, target, *headers) is None


def test_beyond_a_rate_and_what_it_counts(tmp_path):
    """Both ways count from one bucket, and each request once."""
    file = str(tmp_path / "keys")
    made, secret = keys.create(file, "alice", requests_per_minute=3)
    who = (b"authorization", b"Bearer " + secret.encode())
    engine = FakeEngine()

    async def story():
        door = Gateway(engine, engine, launch(keys_file=file), clock=lambda: 100.0)
        large = by_headers(door, "POST", CHAT, who, (b"content-length", b"9999"))
        return door, large, [by_headers(door, "POST", CHAT, who)]

    door, large, passed = asyncio.run(story())
    assert large is not None and large[0] == 413 and passed == [None]
    answered = [by_gateway(door, "POST", CHAT, who)[0] for _ in range(3)]
    assert answered == [200, 200, 429], "the first of three was the large one"

    async def spent():
        return by_headers(door, "POST", CHAT, who)

    told = asyncio.run(spent())
    assert told is not None
    assert told[0] == 429 and told[1][b"retry-after"] == b"20" and told[1][b"x-ratelimit-remaining-requests"] == b"0"
    text = door.meters.text().decode()
    assert f'manta_rejected_total{{key="{made.id}",model="-",reason="rate_limit_exceeded"}} 2.0' in text
    assert f'manta_rejected_total{{key="{made.id}",model="-",reason="request_too_large"}} 1.0' in text


def test_beyond_the_queue():
    door = gateway()
    door.working["tiny"] = 3

    async def ask():
        return by_headers(door, "POST", CHAT, RIGHT)

    told = asyncio.run(ask())
    assert told is not None and told[0] == 503 and told[1][b"retry-after"] == b"1"
    assert told[2] == by_gateway(door, "POST", CHAT, RIGHT)[2]


def test_without_keys_pages_are_the_gateways_business():
    engine = FakeEngine()

    async def ask():
        door = Gateway(engine, engine, launch(requests_per_minute=1))
        return [by_headers(door, "POST", CHAT, (b"content-length", b"9999"), *more) for more in ((), ((b"origin", b"http://evil"),))]  # fmt: skip

    plain, page = asyncio.run(ask())
    assert plain is not None and plain[0] == 413 and page is None


def test_a_view_of_the_keys_that_is_old_is_renewed_first(tmp_path):
    file = str(tmp_path / "keys")
    keys.create(file, "alice")
    now = [100.0]
    engine = FakeEngine()

    async def ask():
        door = Gateway(engine, engine, launch(keys_file=file), clock=lambda: now[0])
        first = by_headers(door, "POST", CHAT, WRONG)
        now[0] += keys.CHECK_SECONDS + 0.1
        return first, by_headers(door, "POST", CHAT, WRONG)

    first, later = asyncio.run(ask())
    assert first is not None and later is None
