"""The private side of a replica: its model's routes for the Fronts of the endpoint alone, over HTTP.

It says what a client is not told: that its engine is dead (so that another replica is asked), and what an answer used.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
from collections.abc import MutableMapping
from typing import Any

from serving.door.answers import ERROR_EVENT, STREAM, Header, Message, Receive, Send
from serving.door.inbox import Kept
from serving.door.listing import fingerprint_headers
from serving.engines.runners import Runner
from serving.engines.vllm import usage
from serving.fleet.load import Job, Load
from serving.launch import Served

log = logging.getLogger("serving")

TOKEN, TOKENS, MODEL = b"x-manta-token", b"x-manta-tokens", b"x-manta-model"  # of a request
UNAVAILABLE, USAGE = b"x-manta-unavailable", b"x-manta-usage"  # of an answer
AT_WORK = b"at-work"
USAGE_EVENT = b": usage "  # a comment to readers of event streams; the Front reads it and takes it out
PROBE = "/-/probe"


class Private:
    """The ASGI application of a replica's private port. `token` is what lets a request in."""

    def __init__(self, runner: Runner, served: Served) -> None:
        self.runner = runner
        self.served = served
        self.token = secrets.token_hex(16)
        self.load = Load()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"a replica's port takes HTTP only, not {scope['type']}")
        headers = dict(scope["headers"])
        if not hmac.compare_digest(headers.get(TOKEN, b""), self.token.encode()):
            return await _plain(send, 403, (UNAVAILABLE, b"stranger"))  # or a Front whose replica was here before
        scope["headers"] = [item for item in scope["headers"] if item[0] not in (TOKEN, TOKENS, MODEL)]
        if scope["path"] == PROBE:
            return await self._probe(send)
        if not await self.runner.alive():
            return await _unavailable(send, at_work=False)
        job = Job(self.load, int(headers.get(TOKENS, b"0")))
        signature = fingerprint_headers(*self.served.fingerprints(headers.get(MODEL, b"").decode()))
        outlet = Outlet(send, self.runner, job, scope.setdefault("state", {}), signature)
        try:
            await self.runner.app(scope, receive, outlet)
        except Exception:
            log.exception("%s failed", scope["path"])
            await outlet.fail()
        finally:
            job.end()

    async def metrics(self) -> bytes:
        """What the model's own server tells of itself in Prometheus' text format; nothing where it has no such route."""
        kept = Kept()
        scope = {
            "type": "http", "method": "GET", "path": "/metrics", "raw_path": b"/metrics", "query_string": b"", "root_path": "",
            "scheme": "http", "http_version": "1.1", "headers": [], "state": {}, "server": ("replica", 80), "client": ("front", 0),
        }  # fmt: skip
        await self.runner.app(scope, _nothing, kept)
        return kept.body if kept.status == 200 else b""

    async def _probe(self, send: Send) -> None:
        """Whether a real answer works."""
        if not await self.runner.alive():
            return await _unavailable(send, at_work=False)
        try:
            await self.runner.generate_once()
        except Exception:
            log.exception("the readiness probe failed")
            return await (_plain(send, 500) if await self.runner.alive() else _unavailable(send, at_work=True))
        return await _plain(send, 200)


class Outlet:
    """The `send` of one request. Holds the answer's beginning back until its first piece is there: until then another
    replica may answer instead, when the engine of this one turns out to be dead."""

    def __init__(self, send: Send, runner: Runner, job: Job, state: MutableMapping[str, Any], signature: list[Header]):
        self._send = send
        self._runner = runner
        self._job = job
        self._state = state
        self._signature = signature
        self._start: Message | None = None  # what is held back
        self._begun = False
        self._ended = False
        self._streams = False

    async def __call__(self, message: Message) -> None:
        if self._ended:
            return
        if message["type"] == "http.response.start":
            self._start = message
            given = message.get("headers", ())
            self._streams = any(name.lower() == b"content-type" and value.startswith(STREAM) for name, value in given)
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        if self._start is not None and not self._begun:
            if not body and more:
                return
            failed = self._start["status"] >= 500 or (self._streams and body.startswith(ERROR_EVENT))
            if failed and not await self._runner.alive():
                self._ended = True
                return await _unavailable(self._send, at_work=True)
            self._begun = True
            told = () if self._streams or (used := usage(self._state)) is None else ((USAGE, b"%d %d" % used),)
            await self._send({**self._start, "headers": [*self._start.get("headers", ()), *self._signature, *told]})
        if body and self._streams:
            self._job.piece()
        self._ended = not more
        if self._ended and self._streams and (used := usage(self._state)) is not None:
            await self._send({**message, "more_body": True})
            message = {"type": "http.response.body", "body": USAGE_EVENT + b"%d %d\n\n" % used}
        await self._send(message)

    async def fail(self) -> None:
        """The app failed. What has begun is broken off, which the Front notices."""
        if self._begun:
            raise ConnectionAbortedError("the answer broke off")
        self._ended = True
        await (_plain(self._send, 500) if await self._runner.alive() else _unavailable(self._send, at_work=True))


def read_usage(told: bytes) -> tuple[int, int]:
    """Tokens of prompt and answer, from the header or the event that tells them."""
    prompt, answer = told.removeprefix(USAGE_EVENT).split()
    return int(prompt), int(answer)


async def _unavailable(send: Send, at_work: bool) -> None:
    """The engine is dead. `at_work`: it had the request by then, which may be why."""
    await _plain(send, 503, (UNAVAILABLE, AT_WORK if at_work else b"idle"))


async def _plain(send: Send, status: int, *headers: Header) -> None:
    body = json.dumps({"status": status}).encode()
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def _nothing() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")
