"""An engine that is a few lines of ASGI, and a client of a gateway around it: what the tests of the gateway share."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import httpx

from serving.door.gateway import Gateway
from serving.fleet.scale import Scale
from serving.launch import Launch, Served

KEY = "sk-test-0123456789abcdef"
FINGERPRINT = "ab" * 32
CHAT = "/v1/chat/completions"
USAGE = (7, 3)  # tokens of prompt and answer that it tells of every answer


def served(**changes: Any) -> Served:
    plain: dict[str, Any] = {
        "name": "tiny", "model": "/m", "fingerprint": FINGERPRINT, "runner": "vllm", "tasks": (), "adapters": (),
        "max_model_len": None, "longest": 256, "dtype": "bfloat16", "tool_parser": "hermes", "kv_cache_gib": 1.0, "cpus": 1, "gpus": 0,
        "min_replicas": 1, "max_replicas": 1, "max_ongoing_requests": 2, "max_prompt_tokens": None, "otlp_endpoint": None,
        "seed": 0,
    }  # fmt: skip
    return Served(**{**plain, **changes})


def launch(**changes: Any) -> Launch:
    """With `served` of several models, or with changes of the only one's."""
    of_the_model = {key: changes.pop(key) for key in ("max_ongoing_requests", "adapters") if key in changes}
    plain: dict[str, Any] = {
        "name": "tiny", "served": (served(**of_the_model),), "host": "127.0.0.1", "port": 8000, "keys_file": None, "key_hashes": (),
        "max_queued_requests": 1, "requests_per_minute": None, "tokens_per_minute": None, "max_body_bytes": 1000,
        "request_seconds": 600.0, "cors_origins": (), "access_log": None,
        "front": False, "routing": "least-busy", "hold_seconds": 5.0, "scale": Scale(2.0, None, None, 1.0, 1.0),
    }  # fmt: skip
    return Launch(**{**plain, **changes})


class FakeEngine:
    """Answers like an engine's server; `do` of a body chooses how it behaves."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.headers: dict[bytes, bytes] = {}  # of the last request
        self.state: dict[str, Any] = {}  # of the last request
        self.is_alive = True
        self.generates = True
        self.probes = 0
        self.hold: asyncio.Event | None = None
        self.stopped = 0  # requests that were given up because the client had left

    async def alive(self) -> bool:
        return self.is_alive

    async def generate_once(self) -> None:
        self.probes += 1
        if not self.generates:
            raise RuntimeError("no token")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope["path"])
        self.headers = dict(scope["headers"])
        self.state = scope.get("state", {})
        if scope["method"] == "GET":
            return await self._tell(scope["path"], send)
        body = (await receive()).get("body", b"")
        asked = json.loads(body)
        if self.hold is not None:
            await self.hold.wait()
        match asked.get("do"):
            case "raise":
                raise RuntimeError("secret /home/me/model")
            case "500":
                return await reply(send, 500, b'{"error": {"message": "Traceback: secret /home/me"}}')
            case "400":
                return await reply(send, 400, b'{"error": {"message": "no", "type": "t", "param": null, "code": 400}}')
            case "break":
                await begin(send)
                await event(send, chunk("one"))
                raise RuntimeError("secret")
            case "stop short":
                await begin(send)
                await event(send, chunk("one"))
                return await send({"type": "http.response.body", "body": b"", "more_body": False})
            case "engine error" | "bad grammar" | "dead at once" | "bad at once" as kind:
                code, words = (400, "the grammar is wrong") if "bad" in kind else (500, "secret /home/me died")
                await begin(send)
                if "at once" not in kind:
                    await event(send, chunk("one"))
                await event(send, {"error": {"message": words, "type": "t", "param": None, "code": code}})
                await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
                return await send({"type": "http.response.body", "body": b"", "more_body": False})
            case "forever" | "stream forever" as kind:
                if kind == "stream forever":
                    await begin(send)
                    await event(send, chunk("one"))
                while (await receive())["type"] != "http.disconnect":
                    pass
                self.stopped += 1
                return None
            case "deaf":
                return await asyncio.sleep(3600)
        finish(scope)
        if asked.get("stream"):
            await begin(send)
            for word in ("one ", "two ", "three"):
                await event(send, chunk(word))
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
            return await send({"type": "http.response.body", "body": b"", "more_body": False})
        return await reply(send, 200, b'{"echo": ' + (body or b"null") + b"}")

    async def _tell(self, path: str, send: Any) -> None:
        return await reply(send, 200, b"vllm:generation_tokens_total 1\n", b"text/plain; version=0.0.4")


def finish(scope: Any) -> None:
    """Leave what vLLM leaves for the middleware around it."""
    told = SimpleNamespace(prompt_tokens=USAGE[0], completion_tokens=USAGE[1])
    scope["state"]["request_metadata"] = SimpleNamespace(final_usage_info=told)


def chunk(word: str) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
    return {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "tiny", "choices": [choice]}


async def begin(send: Any) -> None:
    fields = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})


async def event(send: Any, data: Any) -> None:
    text = json.dumps(data, separators=(",", ":"))
    await send({"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True})


async def reply(send: Any, status: int, body: bytes, kind: bytes = b"application/json") -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
    await send({"type": "http.response.body", "body": body})


def talk(
    engine: FakeEngine, story: Callable[[httpx.AsyncClient], Awaitable[Any]], clock: Any = None, **changes: Any
) -> Any:
    """Run `story` with a client of a gateway around `engine`."""

    async def play() -> Any:
        options = {} if clock is None else {"clock": clock}
        transport = httpx.ASGITransport(Gateway(engine, engine, launch(**changes), **options))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await story(client)

    return asyncio.run(play())


def is_openai_error(answer: httpx.Response) -> bool:
    error = answer.json()["error"]
    return set(error) == {"message", "type", "param", "code"} and "secret" not in answer.text


def hashed(*keys: str) -> tuple[str, ...]:
    return tuple(hashlib.sha256(key.encode()).hexdigest() for key in keys)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
