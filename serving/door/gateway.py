"""The ASGI application clients meet: keys, limits, health and OpenAI-shaped errors around an engine's own routes."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, MutableMapping
from typing import Any

from serving.door import access, answers, origins
from serving.door.access import Asked
from serving.door.answers import Answer, App, Problem, Receive, Send
from serving.door.inbox import Inbox, Kept, read_body
from serving.door.keys import ANONYMOUS, Key, Ring, Unreadable
from serving.door.limits import MAX_TEXTS, Limits, estimate, prompt_estimate, texts
from serving.door.listing import fingerprint_headers, listing, tasks
from serving.door.meters import Meters
from serving.door.openapi import Page
from serving.door.page import files
from serving.door.routes import COUNTED, OPENAPI_PATH, PROBES, ROUTES, TASKS_PATH, paths
from serving.door.turnstile import Turnstile, label, text
from serving.engines.vllm import usage
from serving.fleet.probe import Engine, Probe
from serving.launch import Launch

log = logging.getLogger("serving")

GRACE_SECONDS = 5.0  # an engine that was told that its client hung up may take this long to let go


class Gateway:
    """Wraps `app` (the engine's routes). One per replica; its limits count what this replica sees.

    Raises InputError when `launch.keys_file` cannot be read.
    """

    def __init__(self, app: App, engine: Engine, launch: Launch, clock: Callable[[], float] = time.monotonic):
        self.app = app
        self.engine = engine
        self.launch = launch
        self.ring = Ring(launch.keys_file, launch.key_hashes, clock)
        self.limits = Limits(launch.requests_per_minute, launch.tokens_per_minute, clock)
        self.working = {one.name: 0 for one in launch.served}
        self._at_once = {one.name: one.max_ongoing_requests * one.max_replicas for one in launch.served}
        self.meters = Meters({name: self._load(name) for name in self.working})
        self._clock = clock
        self._fingerprints = {
            name: fingerprint_headers(*one.fingerprints(name)) for one in launch.served for name in one.names
        }
        self._fingerprint = fingerprint_headers(launch.fingerprint)
        self._listed = listing(launch)
        self._probe = Probe(engine, clock)
        self._page = files()
        self._openapi = Page(app, launch)
        self._lines = access.Lines()
        self.refuse = Turnstile(
            launch, self.ring, self.limits, self._all_full, self._write_down, self._fingerprint, clock
        )

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await answers.lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _http(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, whatever happens, and write down what became of it."""
        headers = dict(scope["headers"])
        name = access.request_id(headers.get(b"x-request-id"))
        asked = Asked(name, scope["method"][:16], label(scope["path"]), self._clock())
        fields = [*self._fingerprint, (b"x-request-id", name.encode())]
        fields += origins.headers(headers.get(b"origin"), self.launch.cors_origins)
        answer = Answer(send, fields, self._clock)
        try:
            problem = await self._answer(scope, headers, receive, answer, asked)
            if problem is not None:
                await answer.fail(problem)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("%s %s (%s) failed", asked.method, asked.path, name)
            await answer.fail(await self._failure())
        finally:
            asked.end(self._clock(), answer)
            self._write_down(asked)

    async def _answer(
        self,
        scope: MutableMapping[str, Any],
        headers: dict[bytes, bytes],
        receive: Receive,
        answer: Answer,
        asked: Asked,
    ) -> Problem | None:
        """Answer a request, or say with what it is refused."""
        path, method, origin = scope["path"], scope["method"], headers.get(b"origin")
        if path in PROBES:
            return await self._tell_health(path, method, answer)
        if path in self._page:  # open to all: it holds nothing, and asks for a key itself
            if method not in ("GET", "HEAD"):
                return answers.wrong_method(path, method, "GET")
            status, fields, content = self._page[path].answer(headers)
            await answer.plain(status, content, fields)
            return None
        if method == "OPTIONS" and any(name == b"access-control-allow-origin" for name, _ in answer.headers):
            await answer.plain(204, b"", origins.PREFLIGHT)
            return None
        try:
            key = await self.ring.identify(text(headers.get(b"authorization")))
        except Unreadable:
            return answers.NO_KEYS
        if key is None:
            return answers.UNAUTHORIZED
        asked.key = key.id
        if key is ANONYMOUS and origins.is_foreign(origin, self.launch.cors_origins):
            return answers.FOREIGN_ORIGIN
        if path not in ROUTES:
            return answers.unknown_url(path, method)
        if method != ROUTES[path]:
            return answers.wrong_method(path, method, ROUTES[path])
        if method == "GET":
            return await self._tell(scope, key, receive, answer)
        if problem := self.limits.take_request(key):
            answer.headers += self.limits.headers(key)
            return problem
        if self._all_full():
            return answers.BUSY
        body = await read_body(receive, headers, self.launch.max_body_bytes)
        if body is None:  # the client went away
            return None
        if isinstance(body, Problem):
            return body
        return await self._work(scope, key, Inbox(body, receive, answer), answer, asked)

    async def _work(
        self, scope: MutableMapping[str, Any], key: Key, inbox: Inbox, answer: Answer, asked: Asked
    ) -> Problem | None:
        """Have the engine answer a body that is here, within the key's models and tokens."""
        try:
            wanted = json.loads(inbox.body)
        except (ValueError, RecursionError):
            return answers.NOT_JSON
        if not isinstance(wanted, dict):
            return answers.NOT_JSON
        able = [one for one in self.launch.served if asked.path in paths(one)]
        model = wanted.get("model") or (able[0].name if len(able) == 1 else None)
        if model is None:
            return answers.no_model(asked.path, [name for one in able for name in one.names if key.may_ask(name)])
        if not isinstance(model, str):
            return answers.invalid(400, "invalid_model", "`model` is not a string.")
        served = self.launch.find(model)
        if served is None or not key.may_ask(model):
            return answers.unknown_model(model)
        asked.model = model
        if served not in able:
            return answers.wrong_model(model, asked.path, paths(served))
        if texts(wanted) > MAX_TEXTS:
            return answers.too_many(MAX_TEXTS)
        if self._is_full(served.name):  # here, as others came while the body was on its way
            return answers.BUSY
        answer.headers[: len(self._fingerprint)] = self._fingerprints[model]
        reserved = estimate(inbox.body, wanted) if asked.path in COUNTED else 0
        problem = self.limits.reserve(key, reserved)
        answer.headers += self.limits.headers(key)
        if problem is not None:
            return problem
        asked.reached_engine = True
        asked.streamed = bool(wanted.get("stream"))
        self.working[served.name] += 1
        try:
            return await self._forward(_for_engine(scope, asked.id, model, reserved), inbox, answer)
        except asyncio.CancelledError:  # the server drops the request, as it does when it stops
            inbox.left = True
            raise
        finally:
            self.working[served.name] -= 1
            asked.left = inbox.left
            self._settle(scope["state"], key, inbox, answer, asked, reserved)

    async def _forward(self, scope: MutableMapping[str, Any], inbox: Inbox, answer: Answer) -> Problem | None:
        """Run the engine's own route, for as long as a request may take."""
        limit = self.launch.request_seconds
        timer = asyncio.get_running_loop().call_later(limit, inbox.hang_up)
        try:
            async with asyncio.timeout(limit + GRACE_SECONDS):
                await self.app(scope, inbox, answer.relay)
        except answers.Refused as refused:
            if not (inbox.hung_up or inbox.left):
                return refused.problem
        except Exception:
            if not (inbox.hung_up or inbox.left):
                raise
            log.exception("the engine did not stop well for a client that had gone")
        finally:
            timer.cancel()
        if inbox.hung_up:
            return answers.too_long(limit)
        if answer.ended or answer.problem is not None or inbox.left:
            return None
        return await self._failure()

    def _settle(
        self, state: dict[str, Any], key: Key, inbox: Inbox, answer: Answer, asked: Asked, reserved: int
    ) -> None:
        """Take what the answer used from the key's tokens instead of what was reserved."""
        used = usage(state)
        if used is not None:
            asked.prompt_tokens, asked.completion_tokens = used
            return self.limits.settle(key, reserved, sum(used))
        if inbox.left or inbox.hung_up:  # what was generated until then is known only of a stream
            asked.completion_tokens = answer.pieces
            spent = prompt_estimate(inbox.body) + answer.pieces if asked.streamed else reserved
            return self.limits.settle(key, reserved, spent)
        return self.limits.settle(key, reserved, 0)

    async def _tell(
        self, scope: MutableMapping[str, Any], key: Key, receive: Receive, answer: Answer
    ) -> Problem | None:
        """The models, as far as the key may ask them, and metrics: the engine's and ours."""
        if scope["path"] == "/v1/models":
            listed = [one for one in self._listed if key.may_ask(one["id"])]
            await answer.json(200, {"object": "list", "data": listed})
            return None
        if scope["path"] == TASKS_PATH:
            await answer.json(200, {"object": "list", "data": tasks(self.launch, key.may_ask)})
            return None
        if scope["path"] == OPENAPI_PATH:
            told = await self._openapi.body(scope, receive, tuple(filter(key.may_ask, self.launch.models)))
            if isinstance(told, Problem):
                return told
            await answer.plain(200, told, ((b"content-type", b"application/json"),))
            return None
        kept = Kept()
        if scope["path"] == "/metrics":
            if key.models:
                return answers.invalid(403, "not_allowed", "A key that is bound to models does not read /metrics.")
            # In plain text and not compressed, so that ours can follow.
            scope["headers"] = [item for item in scope["headers"] if not item[0].startswith(b"accept")]
        await self.app(scope, receive, kept)
        if kept.status != 200:
            return await self._failure()
        if scope["path"] == "/metrics":
            kept.body += self.meters.text()
        await answer.plain(200, kept.body, ((b"content-type", kept.type),))
        return None

    def _all_full(self) -> bool:
        return all(map(self._is_full, self.working))

    def _is_full(self, name: str) -> bool:
        return self.working[name] >= self._at_once[name] + self.launch.max_queued_requests

    def _load(self, name: str) -> Callable[[], tuple[int, int]]:
        """Requests of a model that are at work, and those that wait."""

        def load() -> tuple[int, int]:
            most = self._at_once[name]
            return min(self.working[name], most), max(0, self.working[name] - most)

        return load

    async def _tell_health(self, path: str, method: str, answer: Answer) -> Problem | None:
        if method not in ("GET", "HEAD"):
            return answers.wrong_method(path, method, "GET")
        good = await (self.engine.alive() if path == "/health" else self.ready())
        await answer.json(200 if good else 503, {"status": "ok" if good else "unavailable"})
        return None

    async def ready(self) -> bool:
        """Whether the engine has just given a real answer."""
        return await self._probe.passes()

    async def _failure(self) -> Problem:
        return answers.BROKEN if await self.engine.alive() else answers.DOWN

    def _write_down(self, asked: Asked) -> None:
        """Count a request and log it; health checks only when they fail."""
        if asked.path not in PROBES or asked.status != 200:
            self.meters.count(asked)
            self._lines.write(asked)


def _for_engine(scope: MutableMapping[str, Any], request_id: str, model: str, tokens: int) -> MutableMapping[str, Any]:
    """The request as the engine gets it: under our id, so that its traces have the same, and without the key.

    Its ASGI state says which model is asked, for about how many tokens, so that nobody need read the body again.
    """
    drop = (b"x-request-id", b"authorization")
    fields = [item for item in scope["headers"] if item[0] not in drop]
    scope["headers"] = [*fields, (b"x-request-id", request_id.encode())]
    scope.setdefault("state", {}).update(model=model, tokens=tokens)
    return scope
