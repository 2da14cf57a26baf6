"""What comes from the client: its body, within size and time, and the news that it has left."""

from __future__ import annotations

import asyncio
from typing import Any

from serving.door import answers
from serving.door.answers import Answer, Message, Problem, Receive


class Inbox:
    """The `receive` of a request whose body has been read already: gives it once, then waits for the client to leave.

    `hang_up` has the engine believe that it left, which is the one thing that makes it stop working on a request.
    """

    def __init__(self, body: bytes, receive: Receive, answer: Answer):
        self.body = body
        self.left = False  # the client, before it was answered
        self._receive = receive
        self._answer = answer
        self._given = False
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> Message:
        if not self._given:
            self._given = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        waiting = asyncio.ensure_future(self._receive())
        either: set[asyncio.Future[Any]] = {waiting, self._end}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self.hung_up:
                return {"type": "http.disconnect"}
            message = waiting.result()
            if message["type"] == "http.disconnect" and not self._answer.ended:
                self.left = True
            return message
        finally:
            waiting.cancel()

    @property
    def hung_up(self) -> bool:
        return self._end.done()

    def hang_up(self) -> None:
        """Take nothing more from the engine for this request, and have it stop."""
        if not self.hung_up:
            self._answer.broken = True
            self._end.set_result(None)


class Kept:
    """A `send` that keeps a small answer of the engine, to be added to or taken from before it leaves."""

    def __init__(self) -> None:
        self.status = 500
        self.type = b"application/json"
        self.body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            fields = {name.lower(): value for name, value in message.get("headers", ())}
            self.type = fields.get(b"content-type", self.type)
        else:
            self.body += message.get("body", b"")


async def read_body(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes | Problem | None:
    """The whole body, or what is wrong with it; None when the client left. Never holds more than `limit` bytes."""
    if answers.declares_more(headers, limit):
        return answers.too_large(limit)
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(answers.BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                piece = message.get("body", b"")
                size += len(piece)
                if size > limit:
                    return answers.too_large(limit)
                pieces.append(piece)
                if not message.get("more_body", False):
                    return b"".join(pieces)
    except TimeoutError:
        return answers.SLOW_BODY
