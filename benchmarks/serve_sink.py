"""The cheapest server that a crowd can be turned away by: refuses what has a head, lets go what has none. Prints its port.

What remains of a load beside a crowd that is here is what the crowd itself takes of the machine, and no server's doing.
"""

from __future__ import annotations

import asyncio
import os

import uvloop
from serve_crowd import NO_HEAD_SECONDS

REFUSAL = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
LINGER_SECONDS = 1.0  # as the endpoint: a client that still sends may read its answer


class Sink(asyncio.Protocol):
    """A connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # it is served by TCP
        self.transport = transport
        self.timer = asyncio.get_running_loop().call_later(NO_HEAD_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        if b"\r\n\r\n" not in data:  # the crowd sends the whole head of what is a request at once
            return
        self.transport.write(REFUSAL)
        self.transport.pause_reading()
        self.transport.write_eof()
        self.timer.cancel()
        self.timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.transport.abort)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        self.timer.cancel()


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    os.nice(10)  # as the crowd: it is no part of the endpoint
    uvloop.run(main())
