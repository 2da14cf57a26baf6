"""An engine for the browser: a few lines of ASGI that stream tokens with log-probabilities, refuse or break off as asked."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from serving.door.gateway import Gateway
from serving.door.server import listen
from serving.launch import Launch

ANSWER = [
    "Rain",
    "bows",
    " form",
    " when",
    " light",
    " bends",
    " in",
    " drops",
    ".",
    "\n",
    "Sun",
    " behind",
    " you",
    ",",
    " rain",
    " ahead",
    ".",
]
FAKE_TASKS: dict[str, Any] = {
    "token-classification": [
        {"entity_group": "PER", "score": 0.998, "word": "Ada", "start": 2, "end": 5},
        {"entity_group": "LOC", "score": 0.91, "word": "London", "start": 15, "end": 21},
    ],
    "text-classification": [{"label": "negative", "score": 0.04}, {"label": "positive", "score": 0.96}],
    "fill-mask": [
        {"score": 0.8, "token": 5, "token_str": " Paris", "sequence": "The capital of France is Paris."},
        {"score": 0.05, "token": 6, "token_str": " Lyon", "sequence": "The capital of France is Lyon."},
    ],
    "question-answering": {"answer": "1843", "score": 0.7, "start": 40, "end": 44},
    "relation-extraction": [{"label": "born_in", "score": 0.9}, {"label": "none", "score": 0.1}],
    "translation": [{"translation_text": "Das Haus ist klein."}],
    "summarization": [{"summary_text": "A bridge is late."}],
    "feature-extraction": [[1.0, 0.0], [0.8, 0.6], [0.0, 2.0]],
}  # fmt: skip

CHATTERS = ("tiny", "other")


class Talker:
    """What is said last decides: "slow", "break", "fault", "noise", "busy", "emoji" behave so; all else is answered with ANSWER."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.left = threading.Event()  # a client went away from a slow answer

    async def alive(self) -> bool:
        return True

    async def generate_once(self) -> None:
        return None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        body = json.loads((await receive())["body"]) if scope["method"] == "POST" else None
        self.asked.append(body)
        if path.startswith("/v1/tasks/"):
            return await _json(send, 200, FAKE_TASKS[path.rpartition("/")[2]])
        await self._chat(body, receive, send)

    async def _chat(self, body: dict[str, Any], receive: Any, send: Any) -> None:
        said = body["messages"][-1]["content"]
        if said == "busy":
            error = {"error": {"message": "Rate limit", "type": "rate_limit_error", "param": None, "code": None}}
            return await _json(send, 429, error, (b"retry-after", b"2"))
        if not body.get("stream"):
            return await _json(send, 200, {"choices": [{"message": {"content": "Yes."}}]})  # no usage: not all tell it
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        # The two halves of a character that takes two tokens: the first brings no text.
        pieces = [("�", ""), ("�", "🌈"), (" !", " !")] if said == "emoji" else [(word, word) for word in ANSWER]
        for number, (token, text) in enumerate(pieces * (400 if said == "slow" else 1)):
            if said == "slow":
                with contextlib.suppress(TimeoutError):
                    if (await asyncio.wait_for(receive(), 0.02))["type"] == "http.disconnect":
                        return self.left.set()
            if said == "noise":
                await send({"type": "http.response.body", "body": b"data: {nothing\n\n", "more_body": True})
                return await send({"type": "http.response.body", "body": b""})
            if said in ("break", "fault") and number == 4:
                if said == "fault":
                    raise RuntimeError("secret")
                return await send({"type": "http.response.body", "body": b""})
            choice: dict[str, Any] = {"index": 0, "delta": {"content": text}, "finish_reason": None}
            if body.get("logprobs"):
                choice["logprobs"] = {"content": [_entry(token, number)]}
            await _event(send, {"choices": [choice]})
        await _event(send, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        event = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": len(pieces)}}
        await _event(send, event)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


def _entry(token: str, number: int) -> dict[str, Any]:
    chosen = (0.94, 0.61, 0.32, 0.88)[number % 4]
    others = [
        {"token": other, "logprob": math.log((1 - chosen) * share)}
        for other, share in ((" arcs", 0.6), (" a", 0.25), (" the", 0.1))
    ]
    listed = sorted([{"token": token, "logprob": math.log(chosen)}, *others], key=lambda one: -one["logprob"])
    return {"token": token, "logprob": math.log(chosen), "top_logprobs": listed}


async def _event(send: Any, event: dict[str, Any]) -> None:
    data = b"data: " + json.dumps(event).encode() + b"\n\n"
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _json(send: Any, status: int, data: Any, *headers: tuple[bytes, bytes]) -> None:
    fields = [(b"content-type", b"application/json"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": json.dumps(data).encode()})


@contextlib.contextmanager
def served(talker: Talker, launch: Launch, tasks: Sequence[str] = ()) -> Iterator[str]:
    """The gateway around `talker`, which is CHATTERS and a model for each of `tasks`, on a free loopback port, in a
    thread. Yields its URL."""
    [one] = launch.served
    models = [dataclasses.replace(one, name=name) for name in CHATTERS]
    models += [dataclasses.replace(one, name=f"model-{task}", tasks=(task,), mask_token="[MASK]") for task in tasks]
    with listening(talker, dataclasses.replace(launch, served=tuple(models))) as url:
        yield url


@contextlib.contextmanager
def listening(engine: Any, launch: Launch) -> Iterator[str]:
    """The gateway around `engine` on a free loopback port, in a thread. Yields its URL."""
    begun: Future[tuple[Any, int]] = Future()

    async def run() -> None:
        gateway = Gateway(engine, engine, launch)
        server, serving, port = await listen(gateway, "127.0.0.1", 0, 1, gateway.refuse)
        begun.set_result((server, port))
        await serving

    def start() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            if begun.done():
                raise
            begun.set_exception(error)

    thread = threading.Thread(target=start)
    thread.start()
    server, port = begun.result()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
