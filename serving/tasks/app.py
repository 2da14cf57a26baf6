"""The routes of a model that answers tasks, as an ASGI application behind the gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from serving.door.answers import Receive, Send
from serving.tasks import EMBEDDINGS, TASKS, asked, embeddings, passes
from serving.tasks.asked import Wrong
from serving.tasks.batching import Batcher
from serving.tasks.model import Model, Row

PREFIX = "/v1/tasks/"
ROWS = (1, 2, 4, 8, 16, 32)  # of a batch, to count them by

T = TypeVar("T")


class TaskApp:
    """Answers `tasks` (Hugging Face's names) with one model, which clients call `name`."""

    def __init__(self, name: str, tasks: Sequence[str], model: Model):
        self.name = name
        self.tasks = tuple(tasks)
        self.model = model
        self.registry = CollectorRegistry()
        by = ("model",)
        sizes = Histogram("manta_batch_rows", "rows computed together", by, buckets=ROWS, registry=self.registry)
        tokens = Counter("manta_batch_tokens", "tokens computed", by, registry=self.registry)
        padded = Counter("manta_batch_padded_tokens", "the same with what fills up rows", by, registry=self.registry)

        def observe(rows: int, length: int, filled: int) -> None:
            sizes.labels(name).observe(rows)
            tokens.labels(name).inc(length)
            padded.labels(name).inc(filled)

        self.batcher = Batcher(model, observe)
        # Texts become tokens beside the event loop; in one thread, as a tokenizer cannot be used by two at once.
        self._texts = ThreadPoolExecutor(1, thread_name_prefix="tokens")

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["method"] == "GET":
            return await self._tell(path, send)
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        working = asyncio.create_task(self._answered(path, body, scope))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():  # nobody waits for it any more
                return None
            answer = working.result()
        except Wrong as wrong:
            return await _send(send, wrong.status, _problem(wrong))
        finally:
            working.cancel()
            leaving.cancel()
        await _send(send, 200, answer)

    async def answered(self, task: str, told: dict[str, Any]) -> tuple[Any, int, int]:
        """The answer to a request of a task, and its tokens: read and written. Raises Wrong."""
        module, model = TASKS[task], self.model
        request = asked.read(told, module.item, module.Parameters, getattr(module, "LOOSE", False))
        places = [f"inputs[{place}]" if request.several else "inputs" for place in range(len(request.items))]

        def encoded() -> list[list[Row]]:
            return [
                module.rows(item, place, request.parameters, model)
                for item, place in zip(request.items, places, strict=True)
            ]

        made = await self._beside(encoded)
        every = [row for rows in made for row in rows]
        outputs = iter(await self.batcher(every, module.COMPUTE))
        parts = [[next(outputs) for _ in rows] for rows in made]

        def told_of() -> list[Any]:
            return [
                module.answer(item, rows, part, request.parameters, model)
                for item, rows, part in zip(request.items, made, parts, strict=True)
            ]

        answers = await self._beside(told_of)
        shaped = getattr(module, "shaped", _plain)(answers, request.several)
        written = sum(len(output) for part in parts for output in part) if module.COMPUTE is passes.answers else 0
        return shaped, sum(row.length for row in every), written

    async def embedded(self, told: dict[str, Any]) -> tuple[Any, int, int]:
        """The answer to a request of /v1/embeddings, its tokens, and 0."""
        body, rows = await self._beside(embeddings.read, told, self.model)
        outputs = await self.batcher(rows, passes.vectors)
        answer = await self._beside(embeddings.answer, body, rows, outputs, self.model, self.name)
        return answer, answer["usage"]["prompt_tokens"], 0

    async def probe(self) -> None:
        """Answer a request of each task. Raises where the model cannot."""
        for task in self.tasks:
            await self.answered(task, TASKS[task].probe(self.model))

    def stop(self) -> None:
        """End the threads."""
        self.batcher.stop()
        self._texts.shutdown(wait=False, cancel_futures=True)

    async def _beside(self, work: Callable[..., T], *given: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._texts, work, *given)

    async def _answered(self, path: str, body: bytes, scope: MutableMapping[str, Any]) -> bytes:
        """The answer's body. Raises Wrong."""
        task = path.removeprefix(PREFIX)
        if path == "/v1/embeddings" and EMBEDDINGS in self.tasks:
            answer, read, written = await self.embedded(asked.body(body))
        elif path.startswith(PREFIX) and task in self.tasks:
            answer, read, written = await self.answered(task, asked.body(body))
        else:
            routes = [f"{PREFIX}{name}" for name in self.tasks] + ["/v1/embeddings"] * (EMBEDDINGS in self.tasks)
            raise Wrong("model", f"The model `{self.name}` does not answer {path} but {', '.join(routes)}.")
        told = SimpleNamespace(prompt_tokens=read, completion_tokens=written)
        scope.setdefault("state", {})["request_metadata"] = SimpleNamespace(final_usage_info=told)  # as vLLM does
        # A thousand vectors are tens of megabytes of digits: beside the event loop, too.
        return (await self._beside(json.dumps, answer)).encode()

    async def _tell(self, path: str, send: Send) -> None:
        if path == "/metrics":
            return await _send(send, 200, generate_latest(self.registry), b"text/plain; version=0.0.4; charset=utf-8")
        return await _send(send, 404, _problem(Wrong(None, f"Unknown request URL: GET {path}.")))


def _plain(answers: list[Any], several: bool) -> Any:
    return answers if several else answers[0]


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _problem(wrong: Wrong) -> dict[str, Any]:
    return {"error": {"message": str(wrong), "type": "invalid_request_error", "param": wrong.param, "code": "invalid_value"}}  # fmt: skip


async def _send(send: Send, status: int, data: Any, kind: bytes = b"application/json") -> None:
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    fields = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
