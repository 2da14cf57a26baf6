"""The way back to the client: error answers in OpenAI's shape, and what of an engine's answer is let out."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

BODY_SECONDS = 30.0  # a client that has not sent its whole body by then is let go
STREAM = b"text/event-stream"
ERROR_EVENT = b'data: {"error"'
DONE = b"data: [DONE]"


class Problem(NamedTuple):
    """An error answer: HTTP status, OpenAI's type and code, a message for the client, when to come back (seconds)."""

    status: int
    type: str
    code: str
    message: str
    retry_after: int | None = None
    allow: str | None = None  # the methods that a path takes


class Refused(Exception):
    """An app's way to have the gateway answer with a problem, before it has sent anything."""

    def __init__(self, problem: Problem):
        super().__init__(problem.code)
        self.problem = problem


def invalid(status: int, code: str, message: str) -> Problem:
    """A request that is wrong in itself."""
    return Problem(status, "invalid_request_error", code, message)


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
NO_KEYS = Problem(
    503, "service_unavailable_error", "keys_unavailable", "The endpoint cannot read its keys: try again shortly.", 5
)
BROKEN = Problem(500, "server_error", "internal_error", "The endpoint failed to answer this request.")
FATAL = Problem(500, "server_error", "request_failed", "The model failed at this request more than once: change it.")
SLOW_BODY = invalid(408, "request_timeout", f"The request's body did not arrive within {BODY_SECONDS:.0f} seconds.")
NOT_JSON = invalid(400, "invalid_json", "The request's body is not a JSON object.")
FOREIGN_ORIGIN = invalid(
    403, "origin_not_allowed", "This endpoint has no keys and takes no requests from pages of other sites."
)


def wrong_method(path: str, method: str, right: str) -> Problem:
    problem = invalid(405, "method_not_allowed", f"{path} does not take {method}: use {right}.")
    return problem._replace(allow=right)


def unknown_url(path: str, method: str) -> Problem:
    return invalid(404, "unknown_url", f"Unknown request URL: {method} {path}.")


def unknown_model(model: str) -> Problem:
    """As OpenAI's: who may not ask a model does not learn that there is one."""
    shown = model if len(model) <= 100 else f"{model[:100]}..."
    return invalid(404, "model_not_found", f"The model `{shown}` does not exist or you do not have access to it.")


def no_model(path: str, names: list[str]) -> Problem:
    """A request that names no model, where not exactly one answers."""
    if not names:
        return invalid(
            404, "model_not_found", f"No model of this endpoint answers {path}, or none that you have access to."
        )
    return invalid(400, "model_missing", f"The request names no `model`: {path} is answered by {', '.join(names)}.")


def wrong_model(model: str, path: str, paths: Sequence[str]) -> Problem:
    return invalid(400, "model_not_supported", f"The model `{model}` does not answer {path}, but {', '.join(paths)}.")


def too_large(limit: int) -> Problem:
    return invalid(413, "request_too_large", f"The request's body is over the limit of {limit:,} bytes.")


def declares_more(headers: Mapping[bytes, bytes], limit: int) -> bool:
    """Whether a request says that its body has more bytes than that."""
    declared = headers.get(b"content-length", b"0")
    return declared.isdigit() and (len(declared) > 18 or int(declared) > limit)


def too_many(limit: int) -> Problem:
    return invalid(400, "too_many_answers", f"`n` times the prompts of a request is over the limit of {limit}.")


def over_rate(what: str, limit: int, wait: int) -> Problem:
    message = f"Rate limit of {limit:,} {what} a minute reached: try again in {wait} s."
    code = "rate_limit_exceeded" if what == "requests" else "token_limit_exceeded"
    return Problem(429, "rate_limit_error", code, message, wait)


def too_long(seconds: float) -> Problem:
    return Problem(
        504, "timeout_error", "request_timeout", f"The answer took longer than the limit of {seconds:g} seconds."
    )


def worded(problem: Problem) -> tuple[tuple[Header, ...], bytes]:
    """An error answer: its own header fields and its body, in OpenAI's shape."""
    fields: tuple[Header, ...] = ((b"content-type", b"application/json"),)
    if problem.retry_after is not None:
        fields += ((b"retry-after", str(problem.retry_after).encode()),)
    if problem.allow is not None:
        fields += ((b"allow", problem.allow.encode()),)
    if problem.status == 401:
        fields += ((b"www-authenticate", b"Bearer"),)
    if problem.status in (408, 413):
        fields += ((b"connection", b"close"),)
    if problem.status == 504 or problem == FATAL:
        fields += ((b"x-should-retry", b"false"),)  # the same again would take as long again, or do the same harm
    error = {"message": problem.message, "type": problem.type, "param": None, "code": problem.code}
    return fields, json.dumps({"error": error}).encode()


class Answer:
    """One answer: adds `headers` to whatever is sent, notes what metrics need, keeps an engine's internal errors inside."""

    def __init__(self, send: Send, headers: list[Header], clock: Callable[[], float] = time.monotonic):
        self.headers = headers
        self.status: int | None = None  # none: nothing was sent
        self.problem: Problem | None = None  # what the client was told went wrong
        self.broken = False  # the app failed: what it says is dropped, `fail` answers instead
        self.first: float | None = None  # when the first and the last piece of a body went out
        self.last: float | None = None
        self.pieces = 0
        self.ended = False  # everything was sent
        self._send = send
        self._clock = clock
        self._streams = False
        self._held: Message | None = None  # the beginning of a stream whose first piece is not here
        self._done = False

    async def relay(self, message: Message) -> None:
        """Pass on what the wrapped app sends, except the body of its server errors, in mid-stream too.

        A stream begins with its first piece: what fails before is an answer of its own, with a status that says so.
        """
        if self.broken:
            return
        if message["type"] == "http.response.start":
            if message["status"] >= 500:
                self.broken = True
                return
            given = message.get("headers", ())
            self._streams = any(name.lower() == b"content-type" and value.startswith(STREAM) for name, value in given)
            named = {name for name, _ in given}  # a replica knows better than a Front which version of a model it is
            own = [item for item in self.headers if item[0] not in named]
            message = {**message, "headers": [*given, *own]}
            if self._streams:
                self._held = message
                return
            self.status = message["status"]
        elif piece := message.get("body", b""):
            if self._streams and piece.startswith(ERROR_EVENT):
                return await self._engine_error(piece)
            self.last = self._clock()
            if self.first is None:
                self.first = self.last
            self.pieces += 1
            if self._streams:
                self._done = self._done or DONE in piece[-32:]
        if (
            self._streams
            and message["type"] == "http.response.body"
            and not message.get("more_body")
            and not self._done
        ):
            self.broken = True  # it ends before its end: `fail` ends it with an error event
            return
        self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        if self._held is not None:
            start, self._held = self._held, None
            self.status = start["status"]
            await self._send(start)
        await self._send(message)

    async def _engine_error(self, event: bytes) -> None:
        """An engine's own error ends a stream: word for word where it is about the request, else by `fail`."""
        self.broken = True
        told = json.loads(event.removeprefix(b"data: "))["error"]
        if isinstance(told, dict) and isinstance(told.get("code"), int) and 400 <= told["code"] < 500:
            self.problem = invalid(told["code"], "invalid_request", str(told.get("message")))
            if self.status is None:
                return await self.json(told["code"], {"error": told})
            self.ended = True
            await self._send({"type": "http.response.body", "body": event})

    async def json(self, status: int, data: Any, headers: tuple[Header, ...] = ()) -> None:
        """Answer with JSON."""
        body = json.dumps(data).encode()
        await self.plain(status, body, ((b"content-type", b"application/json"), *headers))

    async def plain(self, status: int, body: bytes, headers: tuple[Header, ...] = ()) -> None:
        """Answer with these bytes."""
        self.status, self.ended = status, True
        length = [] if status in (204, 304) else [(b"content-length", str(len(body)).encode())]
        fields = [*headers, *length, *self.headers]
        await self._send({"type": "http.response.start", "status": status, "headers": fields})
        await self._send({"type": "http.response.body", "body": body})

    async def fail(self, problem: Problem) -> None:
        """Answer with an error, or end a stream that has begun with an error event and without `[DONE]`.

        Another answer that has begun is left unfinished: the server then breaks the connection, which clients notice.
        """
        if self.ended:
            return
        self.problem = problem
        fields, body = worded(problem)
        if self.status is None:
            await self.plain(problem.status, body, fields)
        elif self._streams:
            self.ended = True
            await self._send({"type": "http.response.body", "body": b"data: " + body + b"\n\n"})


async def lifespan(receive: Receive, send: Send) -> None:
    """Agree to whatever a server announces: the replica itself starts and stops the engine."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
