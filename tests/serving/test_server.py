"""The HTTP server with real sockets: clients that are slow, many or large are let go, and others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serving.door import server
from serving.door.gateway import Gateway
from tests.serving.fake_engine import CHAT, FakeEngine, launch

HEAD = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
WHOLE = HEAD + b"Content-Length: 2\r\n\r\n{}"
KEYS = ("0" * 64,)
PATIENCE = 20.0  # more than any machine needs; a client that is not let go makes a test fail, not hang


@pytest.fixture
def serve(free_port) -> Callable[..., Any]:
    """Run a story with the server's port open."""

    def run(story: Callable[[int], Awaitable[Any]], **changes: Any) -> Any:
        async def play() -> Any:
            engine = FakeEngine()
            gateway = Gateway(engine, engine, launch(**changes))
            running, task, _ = await server.listen(
                gateway, "127.0.0.1", free_port, drain_seconds=1, refuse=gateway.refuse
            )
            while not running.started:
                await asyncio.sleep(0.01)
            try:
                async with asyncio.timeout(PATIENCE):
                    return await story(free_port)
            finally:
                running.should_exit = True
                await task

        return asyncio.run(play())

    return run


async def ask(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Send pieces with pauses between them; everything that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_a_request_is_answered_and_its_connection_closed_when_idle(serve, monkeypatch):
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0)
    got = serve(lambda port: ask(port, WHOLE))
    assert got.startswith(b"HTTP/1.1 200") and b'{"echo": {}}' in got


@pytest.mark.parametrize("said", [b"", b"POST /v1/ch", HEAD])
def test_who_never_ends_its_headers_is_let_go(serve, monkeypatch, said):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.1)
    assert serve(lambda port: ask(port, said)) == b""


def test_who_sends_a_header_now_and_then_gets_no_more_time(serve, monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    drops = [b"POST / HTTP/1.1\r\n", *[b"X-%d: 1\r\n" % number for number in range(200)]]
    assert serve(lambda port: ask(port, *drops, pause=0.05)) == b""


def test_the_second_request_of_a_connection_has_a_time_of_its_own(serve, monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    got = serve(lambda port: ask(port, WHOLE, b"POST /v1", pause=0.1))
    assert got.count(b"HTTP/1.1 200") == 1


def test_headers_without_end_are_cut_off(serve):
    flood = [b"GET / HTTP/1.1\r\n", *[b"X: " + b"y" * 8000 + b"\r\n"] * 40]
    assert serve(lambda port: ask(port, *flood)) == b""


def test_a_refused_client_that_drips_its_body_is_let_go(serve, monkeypatch):
    """It was answered 401 at once; what it goes on sending keeps nothing open."""
    monkeypatch.setattr(server, "LINGER_SECONDS", 0.2)
    drops = [HEAD + b"Content-Length: 900\r\n\r\n", *[b"x"] * 100]
    got = serve(lambda port: ask(port, *drops, pause=0.05), key_hashes=KEYS)
    assert got == b"" or got.startswith(b"HTTP/1.1 401")


def test_beyond_the_most_connections_the_one_that_has_asked_nothing_for_longest_goes(serve, monkeypatch):
    monkeypatch.setattr(server, "_most_connections", lambda: 2)

    async def story(port):
        (first, _), (second, writer) = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await asyncio.sleep(0.1)
        third, _ = await asyncio.open_connection("127.0.0.1", port)
        gone = await first.read()
        writer.write(WHOLE)
        return gone, await second.readline(), third.at_eof()

    gone, answer, third_gone = serve(story)
    assert gone == b"" and not third_gone
    assert answer.startswith(b"HTTP/1.1 200")


def test_where_all_connections_are_at_work_a_new_one_is_closed(serve, monkeypatch):
    monkeypatch.setattr(server, "_most_connections", lambda: 2)
    body = b'{"do": "stream forever"}'

    async def story(port):
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        for reader, writer in held:
            writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        refused = await ask(port, WHOLE)
        for _, writer in held:
            writer.close()
        return refused

    assert serve(story, max_ongoing_requests=4) == b""


def test_legitimate_requests_do_not_notice_slow_ones(serve, monkeypatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(server, "KEEP_ALIVE_SECONDS", 0)

    async def story(port):
        slow = [asyncio.create_task(ask(port, b"POST /v1")) for _ in range(200)]
        answers = [await ask(port, WHOLE) for _ in range(20)]
        return answers, await asyncio.gather(*slow)

    answers, slow = serve(story)
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert set(slow) == {b""}


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(serve):
    got = serve(lambda port: ask(port, HEAD + b"Content-Length: 10000000\r\n\r\n"))
    assert got.startswith(b"HTTP/1.1 413")


class TestRefusals:
    """Those that a request's headers are enough for: they end their connection."""

    def test_one_is_whole_though_its_body_comes_later(self, serve):
        pieces = [HEAD + b"Content-Length: 50000\r\n\r\n", *[b"x" * 10_000] * 5]
        got = serve(lambda port: ask(port, *pieces, pause=0.02), key_hashes=KEYS)
        head, _, body = got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 401 Unauthorized\r\n") and b"connection: close" in head.lower()
        assert json.loads(body)["error"]["code"] == "invalid_api_key"

    @pytest.mark.parametrize(
        ("chunked", "keys", "status"), [(False, KEYS, b"401"), (True, KEYS, b"401"), (False, (), b"413")]
    )
    def test_a_large_body_is_not_read(self, serve, monkeypatch, chunked, keys, status):
        """What the client can send is what lies in sockets; and it has its answer."""
        monkeypatch.setattr(server, "LINGER_SECONDS", 0.5)
        piece = b"x" * 2**20

        async def story(port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                HEAD + (b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 99999999") + b"\r\n\r\n"
            )
            answer = await reader.readline()
            sent = 0
            with contextlib.suppress(ConnectionError):
                while sent < 90 * 2**20:
                    writer.write(b"100000\r\n" + piece + b"\r\n" if chunked else piece)
                    await writer.drain()
                    sent += len(piece)
            return answer, sent

        answer, sent = serve(story, key_hashes=keys)
        assert answer.split()[1] == status
        assert sent < 45 * 2**20

    def test_of_two_requests_at_once_the_first_is_answered(self, serve):
        got = serve(lambda port: ask(port, WHOLE * 2), key_hashes=KEYS)
        assert got.count(b"HTTP/1.1 401") == 1

    def test_an_answer_that_is_owed_comes_before_a_refusal(self, serve):
        """The second one waits for its turn, and is refused by the gateway."""
        got = serve(lambda port: ask(port, WHOLE * 2), requests_per_minute=1)
        assert [line.split()[1] for line in got.splitlines() if line.startswith(b"HTTP/1.1")] == [b"200", b"429"]
