"""One request carried to a replica's private port and its answer carried back: an HTTP/1.1 client made for that alone.

General clients cost more for each piece of a stream than everything else on its way (httpx about 0.3 ms). This one
reads only what serving/fleet/private.py writes: answers with a length or in chunks, over connections that are kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple, cast

from httptools import HttpParserError, HttpResponseParser

from serving.door.answers import Header

CONNECT_SECONDS = 2.0  # a node that does not even accept a connection within this time is lost
HIGH_WATER = 256 * 1024  # bytes of an answer that wait for a client that reads slowly; beyond them the replica waits
HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"date", b"server"})


class Lost(Exception):
    """The replica is not there, or went away before its answer had ended. `at_work`: it had the request by then."""

    def __init__(self, at_work: bool = True):
        super().__init__("the replica is gone")
        self.at_work = at_work


class Place(NamedTuple):
    """Where a replica listens, and the word that it lets a request in for."""

    host: str
    port: int
    token: str


class Head(NamedTuple):
    """The beginning of an answer."""

    status: int
    headers: list[Header]


class Connection(asyncio.Protocol):
    """A connection to a replica: one request at a time, and the pieces of its answer as the replica wrote them."""

    def __init__(self) -> None:
        self.closed = False
        self.used = False  # something was asked over it before
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._begin()

    def _begin(self) -> None:
        self._parser = HttpResponseParser(self)
        self._headers: list[Header] = []
        self._head: Head | None = None
        self._pieces: deque[bytes] = deque()
        self._parts: list[bytes] = []  # of a chunk that is not here whole
        self._chunked = False
        self._held = 0  # bytes in _pieces
        self._paused = False
        self.whole = False  # the answer has ended

    def is_kept(self) -> bool:
        """Whether another request may be asked over it."""
        return self.whole and not self.closed

    def ask(self, method: bytes, path: bytes, place: Place, headers: Iterable[Header], body: bytes) -> None:
        """Send a request. `headers` hold neither a length nor a host."""
        self._begin()
        lines = [b"%b %b HTTP/1.1\r\nhost: replica\r\nx-manta-token: %b\r\n" % (method, path, place.token.encode())]
        lines += [b"%b: %b\r\n" % header for header in headers]
        lines.append(b"content-length: %d\r\n\r\n" % len(body))
        lines.append(body)
        self._transport.write(b"".join(lines))
        self.used = True

    async def head(self) -> Head:
        """The answer's status and headers. Raises Lost."""
        while self._head is None:
            await self._more()
        return self._head

    async def pieces(self) -> list[bytes]:
        """The pieces of the body that have come since: at least one, or none when the answer has ended. Raises Lost."""
        while not self._pieces and not self.whole:
            await self._more()
        found = list(self._pieces)
        self._pieces.clear()
        self._held = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return found

    def give_up(self) -> None:
        """Break the connection if its answer has not ended: the replica stops working on what was asked."""
        if not self.whole:
            self.abort()

    def abort(self) -> None:
        self.closed = True
        self._transport.abort()
        self._wake()

    async def _more(self) -> None:
        if self.closed:
            raise Lost()
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- asyncio's calls ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except HttpParserError:
            self.abort()
        if self._held > HIGH_WATER and not self._paused and not self.closed:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, _: Exception | None) -> None:
        self.closed = True
        self._wake()

    # --- httptools' calls ---------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"transfer-encoding":
            self._chunked = True
        if name not in HOP_BY_HOP:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._head = Head(self._parser.get_status_code(), self._headers)

    def on_body(self, body: bytes) -> None:
        if self._chunked:  # what arrived of one
            self._parts.append(body)
        else:
            self._add(body)

    def on_chunk_complete(self) -> None:
        if self._parts:
            self._add(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
            self._parts.clear()

    def on_message_complete(self) -> None:
        self.whole = True
        if not self._parser.should_keep_alive():
            self.closed = True
            self._transport.close()

    def _add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._held += len(piece)


class Lines:
    """Connections to replicas, kept open between requests."""

    def __init__(self) -> None:
        self._idle: dict[Place, list[Connection]] = {}

    async def take(self, place: Place, new: bool = False) -> Connection:
        """A connection to ask over; with `new` none that was used before. Raises Lost where nobody listens."""
        idle = self._idle.get(place, [])
        while idle and not new:
            if not (kept := idle.pop()).closed:
                return kept
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, made = await asyncio.get_running_loop().create_connection(Connection, place.host, place.port)
        except OSError as error:  # TimeoutError is one
            raise Lost(at_work=False) from error
        return made

    def give_back(self, place: Place, connection: Connection) -> None:
        """Keep a connection whose answer has ended; break any other."""
        if connection.is_kept():
            self._idle.setdefault(place, []).append(connection)
        elif not connection.closed:
            connection.abort()

    def forget(self, place: Place) -> None:
        """Close the idle connections to a replica that is gone."""
        for connection in self._idle.pop(place, ()):
            connection.abort()

    def close(self) -> None:
        for place in list(self._idle):
            self.forget(place)
