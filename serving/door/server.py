"""The HTTP server of a replica that holds the endpoint's port itself: uvicorn, with an end to clients that are too slow."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import resource
import socket
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.door.answers import declares_more

KEEP_ALIVE_SECONDS = 15  # a connection that asks nothing more is closed
HEAD_SECONDS = 10.0  # for a request's line and headers
MESSAGE_SECONDS = 45.0  # for its body, whatever became of the request: the gateway itself answers 408 before
WRITE_SECONDS = 60.0  # a client that takes nothing of its answer for so long has left
LINGER_SECONDS = 1.0  # for a client that was refused to read why, while it still sends
HEAD_BYTES = 64 * 1024
LATE_BYTES = 64 * 1024  # of a body that are read, and dropped, when its request has been answered
MAX_CONNECTIONS = 4096

# A request's method, target and headers -> the whole answer where it is refused, but for headers that all answers have.
Refuse = Callable[[bytes, bytes, Sequence[tuple[bytes, bytes]]], bytes | None]


class PatientProtocol(HttpToolsProtocol):
    """A connection. uvicorn alone waits for ever for headers, and for readers that do not read; and reads whatever is sent.

    `idle`: the server's connections that are owed no answer, the one that has been so for longest first. Where there are too
    many connections, that one goes: who holds many open and asks nothing shuts nobody out.
    """

    def __init__(self, *args: Any, refuse: Refuse | None, idle: dict[PatientProtocol, None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refuse = refuse
        self._idle = idle
        self._is_over = False  # it was answered for the last time
        self._late_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._head_bytes: int | None = 0  # of the head that is on its way; None: a body is, or nothing

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _most_connections():
            oldest = next(iter(self._idle), self)
            self._idle.pop(oldest, None)
            oldest.transport.abort()
            if oldest is self:
                return
        self._idle[self] = None
        self._within(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._idle.pop(self, None)
        self._in_time()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes is not None and self._head_bytes > HEAD_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_bytes is None:
            self._head_bytes = 0
            self._within(HEAD_SECONDS)

    def on_headers_complete(self) -> None:
        if self._is_over:
            return
        self._head_bytes = None
        waits = self.cycle is not None and not self.cycle.response_complete  # for the answer to the one before it
        if self._refuse is not None and not waits:
            refusal = self._refuse(self.parser.get_method(), self.url, self.headers)
            if refusal is not None:
                return self._turn_away(refusal)
        self._idle.pop(self, None)
        self._within(MESSAGE_SECONDS)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._is_over or self.cycle.response_complete:
            self._late_bytes += len(body)
            if self._late_bytes > LATE_BYTES:
                self._linger()
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._is_over:
            self.transport.close()
            return
        self._in_time()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline:
            self._idle[self] = None

    def _turn_away(self, refusal: bytes) -> None:
        """Answer without an application, for the last time here. What is left of the request's body has a moment to come."""
        self._is_over = True
        line, _, rest = refusal.partition(b"\r\n")
        shared = b"".join([b"%b: %b\r\n" % field for field in self.server_state.default_headers])
        self.transport.write(b"%b\r\n%b%b" % (line, shared, rest))
        self._within(LINGER_SECONDS)
        if declares_more(dict(self.headers), LATE_BYTES):
            self._linger()

    def _linger(self) -> None:
        """Read nothing more. To close at once, with something unread, might take the answer from who has not read it yet."""
        if not self.transport.is_reading():
            return
        self._is_over = True
        self.transport.pause_reading()
        self.transport.write_eof()
        self._within(LINGER_SECONDS)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    def _within(self, seconds: float) -> None:
        self._in_time()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


@functools.cache
def _most_connections() -> int:
    """Half of the files this process may open at most: the rest is for the engine and its models."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if allowed == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, allowed // 2)


async def listen(
    app: Any, host: str, port: int, drain_seconds: float, refuse: Refuse | None = None
) -> tuple[uvicorn.Server, asyncio.Task[None], int]:
    """Serve an ASGI application on a port (0: a free one), in this event loop. Returns the port as well.

    What `refuse` answers does not reach the application.

    The task ends when `should_exit` of the server is set and its answers are out, after `drain_seconds` at most.
    """
    config = uvicorn.Config(
        app,
        interface="asgi3",
        proxy_headers=False,
        http=functools.partial(PatientProtocol, refuse=refuse, idle={}),  # type: ignore[arg-type] # uvicorn only calls it
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(drain_seconds),
    )
    listener = await _bind(host, port)
    server = uvicorn.Server(config)
    # Signals are the business of Ray, which owns this process.
    server.capture_signals = contextlib.nullcontext  # type: ignore
    listener.listen(config.backlog)  # who asks before uvicorn has begun waits for it
    return server, asyncio.create_task(server.serve(sockets=[listener])), listener.getsockname()[1]


async def _bind(host: str, port: int) -> socket.socket:
    """A bound socket; a replica that takes over from one just ended may have to wait a moment for the port."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for attempt in range(100):
        try:
            listener.bind((host, port))
            return listener
        except OSError as error:
            if error.errno != errno.EADDRINUSE or attempt == 99:
                raise
            await asyncio.sleep(0.1)
    raise AssertionError("unreachable")
