"""The ASGI application clients meet: keys, limits, health and OpenAI-shaped errors around an engine's own routes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple, Protocol

from serving.launch import Launch
from serving.limits import Rate, identify
from serving.page import File, files

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

log = logging.getLogger("serving")

FINGERPRINT_HEADER = b"x-manta-fingerprint"
BODY_SECONDS = 30.0  # a client that has not sent its whole body by then is let go
READY_SECONDS = 2.0  # a readiness answer is good for this long, so that asking often costs nothing
PROBE_SECONDS = 20.0  # a one-token generation that takes longer counts as not ready

# What reaches the engine: path -> method. Everything else of the engine's own server stays closed.
ROUTES = {
    "/v1/models": "GET",
    "/v1/chat/completions": "POST",
    "/v1/completions": "POST",
    "/tokenize": "POST",
    "/detokenize": "POST",
    "/metrics": "GET",
}
GENERATING = frozenset({"/v1/chat/completions", "/v1/completions"})


class Engine(Protocol):
    """What the gateway asks of an engine besides its HTTP routes."""

    async def alive(self) -> bool:
        """Whether it can still answer at all."""

    async def generate_once(self) -> None:
        """Generate one token. Raises when that does not work."""


class Problem(NamedTuple):
    """An error answer: HTTP status, OpenAI's type and code, a message for the client, when to come back (seconds)."""

    status: int
    type: str
    code: str | None
    message: str
    retry_after: int | None = None


UNAUTHORIZED = Problem(
    401,
    "authentication_error",
    "invalid_api_key",
    "Incorrect API key: send `Authorization: Bearer KEY` with a key of this endpoint.",
)
BUSY = Problem(
    503, "service_unavailable_error", "busy", "The endpoint is at its limit of waiting requests: try again shortly.", 1
)
DOWN = Problem(503, "service_unavailable_error", "unavailable", "The model is restarting: try again shortly.", 5)
BROKEN = Problem(500, "server_error", "internal_error", "The endpoint failed to answer this request.")
SLOW_BODY = Problem(
    408,
    "invalid_request_error",
    "request_timeout",
    f"The request's body did not arrive within {BODY_SECONDS:.0f} seconds.",
)


class Gateway:
    """Wraps `app` (the engine's routes). One per replica; its limits count what this replica sees."""

    def __init__(self, app: App, engine: Engine, launch: Launch, clock: Callable[[], float] = time.monotonic):
        self.app = app
        self.engine = engine
        self.launch = launch
        self.rate = Rate(launch.requests_per_minute, clock)
        self.capacity = launch.max_ongoing_requests + launch.max_queued_requests
        self.working = 0
        self._clock = clock
        self._fingerprint = (FINGERPRINT_HEADER, launch.fingerprint.encode())
        self._ready: tuple[float, bool] | None = None
        self._probe = asyncio.Lock()
        self._page = files()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            answer = _Answer(send, self._fingerprint)
            try:
                await self._http(scope, receive, answer)
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("%s %s failed", scope["method"], scope["path"])
                await answer.fail(BROKEN if await self.engine.alive() else DOWN)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: MutableMapping[str, Any], receive: Receive, answer: _Answer) -> None:
        path, method = scope["path"], scope["method"]
        if path in ("/health", "/ready"):
            if method not in ("GET", "HEAD"):
                return await answer.fail(_wrong_method(path, method, "GET"))
            good = await (self.engine.alive() if path == "/health" else self.ready())
            return await answer.json(200 if good else 503, {"status": "ok" if good else "unavailable"})
        headers = dict(scope["headers"])
        if path in self._page:
            if method not in ("GET", "HEAD"):
                return await answer.fail(_wrong_method(path, method, "GET"))
            return await answer.file(self._page[path], headers)
        client = identify(_text(headers.get(b"authorization")), self.launch.key_hashes)
        if client is None:
            return await answer.fail(UNAUTHORIZED)
        if path not in ROUTES:
            return await answer.fail(
                Problem(404, "invalid_request_error", "unknown_url", f"Unknown request URL: {method} {path}.")
            )
        if method != ROUTES[path]:
            return await answer.fail(_wrong_method(path, method, ROUTES[path]))
        if method == "GET":
            return await self._forward(scope, receive, answer)
        if wait := self.rate.take(client):
            message = (
                f"Rate limit of {self.launch.requests_per_minute} requests a minute reached: try again in {wait} s."
            )
            return await answer.fail(Problem(429, "rate_limit_error", "rate_limit_exceeded", message, wait))
        if self.working >= self.capacity:
            return await answer.fail(BUSY)
        body = await _read_body(receive, headers, self.launch.max_body_bytes)
        if body is None:  # the client went away
            return None
        if isinstance(body, Problem):
            return await answer.fail(body)
        if self.working >= self.capacity:  # others came while the body was on its way
            return await answer.fail(BUSY)
        self.working += 1
        try:
            await self._forward(scope, _replay(body, receive), answer)
        finally:
            self.working -= 1

    async def _forward(self, scope: MutableMapping[str, Any], receive: Receive, answer: _Answer) -> None:
        await self.app(scope, receive, answer.relay)
        if answer.broken:
            await answer.fail(BROKEN if await self.engine.alive() else DOWN)

    async def ready(self) -> bool:
        """Whether a one-token generation works, asked of the engine at most every READY_SECONDS."""
        async with self._probe:
            moment = self._clock()
            if self._ready is None or moment - self._ready[0] > READY_SECONDS:
                self._ready = (moment, await self._generates())
            return self._ready[1]

    async def _generates(self) -> bool:
        if not await self.engine.alive():
            return False
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self.engine.generate_once()
        except Exception:
            log.exception("the readiness probe failed")
            return False
        return True


class _Answer:
    """The way back to the client: adds the fingerprint, and keeps an engine's internal errors from leaving."""

    def __init__(self, send: Send, fingerprint: tuple[bytes, bytes]):
        self._send = send
        self._fingerprint = fingerprint
        self._started = False
        self.broken = False  # the app answered 5xx: what it says is dropped, `fail` answers instead

    async def relay(self, message: Message) -> None:
        """Pass on what the wrapped app sends, except the body of its server errors."""
        if message["type"] == "http.response.start":
            if message["status"] >= 500:
                self.broken = True
                return
            message = {**message, "headers": [*message.get("headers", ()), self._fingerprint]}
            self._started = True
        if not self.broken:
            await self._send(message)

    async def json(self, status: int, data: Any, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        body = json.dumps(data).encode()
        self._started = True
        fields = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            self._fingerprint,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": [*fields, *headers]})
        await self._send({"type": "http.response.body", "body": body})

    async def file(self, file: File, asked: dict[bytes, bytes]) -> None:
        status, headers, body = file.answer(asked)
        self._started = True
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, self._fingerprint]})
        await self._send({"type": "http.response.body", "body": body})

    async def fail(self, problem: Problem) -> None:
        """Answer with an error, or end a stream that has begun with an error event."""
        error = {"error": {"message": problem.message, "type": problem.type, "param": None, "code": problem.code}}
        if self._started:
            await self._send({"type": "http.response.body", "body": b"data: " + json.dumps(error).encode() + b"\n\n"})
            return
        extra: tuple[tuple[bytes, bytes], ...] = ()
        if problem.retry_after is not None:
            extra += ((b"retry-after", str(problem.retry_after).encode()),)
        if problem.status == 401:
            extra += ((b"www-authenticate", b"Bearer"),)
        if problem.status in (408, 413):
            extra += ((b"connection", b"close"),)
        await self.json(problem.status, error, extra)


async def _read_body(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes | Problem | None:
    """The whole body, or what is wrong with it; None when the client left. Never holds more than `limit` bytes."""
    too_long = Problem(
        413, "invalid_request_error", "request_too_large", f"The request's body is over the limit of {limit:,} bytes."
    )
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit:
        return too_long
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                piece = message.get("body", b"")
                size += len(piece)
                if size > limit:
                    return too_long
                pieces.append(piece)
                if not message.get("more_body", False):
                    return b"".join(pieces)
    except TimeoutError:
        return SLOW_BODY


async def _lifespan(receive: Receive, send: Send) -> None:
    """Agree to whatever a server announces: the replica itself starts and stops the engine."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body read already, then whatever comes (the client's disconnect)."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _wrong_method(path: str, method: str, right: str) -> Problem:
    return Problem(405, "invalid_request_error", "method_not_allowed", f"{path} does not take {method}: use {right}.")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
