"""The HTTP server of a replica that holds the endpoint's port itself: uvicorn, with an end to clients that are too slow."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

KEEP_ALIVE_SECONDS = 15  # a connection that asks nothing more is closed
HEAD_SECONDS = 10.0  # for a request's line and headers
MESSAGE_SECONDS = 45.0  # for its body, whatever became of the request: the gateway itself answers 408 before
WRITE_SECONDS = 60.0  # a client that takes nothing of its answer for so long has left
HEAD_BYTES = 64 * 1024
MAX_CONNECTIONS = 4096


class PatientProtocol(HttpToolsProtocol):
    """A connection. uvicorn alone waits for ever for headers, and for readers that do not read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._head_bytes: int | None = 0  # of the head that is on its way; None: a body is, or nothing

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > _most_connections():
            transport.abort()
            return
        self._within(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
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
        self._head_bytes = None
        self._within(MESSAGE_SECONDS)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_time()
        super().on_message_complete()

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


def _most_connections() -> int:
    """Half of the files this process may open at most: the rest is for the engine and its models."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if allowed == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, allowed // 2)


async def listen(
    app: Any, host: str, port: int, drain_seconds: float
) -> tuple[uvicorn.Server, asyncio.Task[None], int]:
    """Serve an ASGI application on a port (0: a free one), in this event loop. Returns the port as well.

    The task ends when `should_exit` of the server is set and its answers are out, after `drain_seconds` at most.
    """
    config = uvicorn.Config(
        app,
        interface="asgi3",
        proxy_headers=False,
        http=PatientProtocol,
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
