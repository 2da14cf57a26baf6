"""One answer on its way to the client, as the comparison of two versions sees it."""

from __future__ import annotations

import time
from collections.abc import Callable

from serving.door.answers import DONE, ERROR_EVENT, STREAM, Message, Send


class Declined(Exception):
    """A version answered with an error, and nothing of it was sent. `status`: HTTP's."""

    def __init__(self, status: int):
        super().__init__(f"declined with {status}")
        self.status = status


class Watch:
    """The `send` of one request. `picky`: raises Declined instead of passing on an answer that is an error, so that
    another version can be asked; what follows the first piece of a stream is passed on whatever it is."""

    def __init__(self, send: Send, picky: bool = False, clock: Callable[[], float] = time.monotonic):
        self.status: int | None = None  # none: nothing came
        self.ended = False  # the whole answer came
        self.started = clock()
        self.first: float | None = None
        self.last: float | None = None
        self._send = send
        self._picky = picky
        self._clock = clock
        self._start: Message | None = None  # held until its first piece is there
        self._streams = False
        self._broken = False
        self._done = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._streams = any(
                name == b"content-type" and value.startswith(STREAM) for name, value in message["headers"]
            )
            if self._picky:
                if message["status"] >= 400:
                    raise Declined(message["status"])
                self._start = message
                return
        else:
            self._see(message.get("body", b""), message.get("more_body", False))
            if self._start is not None:
                if self.failed and (self._broken or self.ended):
                    raise Declined(500)
                start, self._start = self._start, None
                await self._send(start)
        await self._send(message)

    def _see(self, piece: bytes, more: bool) -> None:
        self.ended = not more
        if piece:
            self._broken = self._broken or (self._streams and piece.startswith(ERROR_EVENT))
            self._done = self._done or DONE in piece[-32:]
            self.last = self._clock()
            if self.first is None:
                self.first = self.last

    @property
    def failed(self) -> bool:
        """Whether this is no good answer: none, an error of the server, or a stream that broke off or says so."""
        if self.status is None or self.status >= 500 or not self.ended or self._broken:
            return True
        return self._streams and not self._done

    @property
    def refused(self) -> bool:
        """Whether the request was found wrong."""
        return self.status is not None and 400 <= self.status < 500

    @property
    def seconds(self) -> float:
        """Since it was asked."""
        return self._clock() - self.started

    def times(self, tokens: int) -> dict[str, float]:
        """Of a good answer of so many tokens: see arms.TIMES."""
        if self.first is None or self.last is None:
            return {}
        if not self._streams:
            return {"latency": self.last - self.started}
        each = {"tpot": (self.last - self.first) / (tokens - 1)} if tokens > 1 else {}
        return {"ttft": self.first - self.started, **each}
