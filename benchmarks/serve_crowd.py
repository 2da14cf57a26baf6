"""A thousand clients that mean no good, bounded in time: `serve_crowd.py URL KEY SECONDS [CLIENTS]`.

Says `ready` on stdout once all of them have begun, and last what they did, as JSON. KEY is one that the endpoint limits.
It runs at low priority: what an attacker's own machine does is not the endpoint's work.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

CLIENTS = 1000
PAUSE_SECONDS = 2.0  # of each client between two tries, on average
DRIP_SECONDS = 1.0  # between two bytes of those that are slow
NO_HEAD_SECONDS = 10.0  # until the endpoint lets them go
BODY_BYTES, CHUNK = 10 * 2**20, b"10000\r\n" + b"a" * 65536 + b"\r\n"
PATH = "/v1/completions"
STREAM = {"prompt": "def main(", "max_tokens": 64, "ignore_eos": True, "stream": True}

Lines = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Crowd:
    """All clients, what they met (kind and status -> times), and how many have begun."""

    def __init__(self, url: str, key: str):
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.key = key
        self.met: Counter[str] = Counter()
        self.began = asyncio.Semaphore(0)
        self.draw = random.Random(0)

    async def client(self, kind: str, act: Callable[[Lines], Awaitable[str]]) -> None:
        """One client: a connection, what it does there, a pause, and again."""
        await asyncio.sleep(self.draw.uniform(0, PAUSE_SECONDS))
        first = True
        while True:
            try:
                lines = await asyncio.open_connection(self.host, self.port)
                if first:
                    self.began.release()
                    first = False
                try:
                    met = await act(lines)
                finally:
                    lines[1].transport.abort()
            except OSError as error:
                met = type(error).__name__
            except asyncio.IncompleteReadError:
                met = "closed"
            self.met[f"{kind}: {met}"] += 1
            await asyncio.sleep(self.draw.uniform(0, 2 * PAUSE_SECONDS))

    def head(self, key: str, length: str) -> bytes:
        lines = [f"POST {PATH} HTTP/1.1", "host: x", f"authorization: Bearer {key}", "content-type: application/json"]
        return "\r\n".join([*lines, length]).encode() + b"\r\n\r\n"

    async def wrong_key(self, lines: Lines) -> str:
        """A small request with a key that nobody made."""
        body = json.dumps(STREAM).encode()
        lines[1].write(self.head(f"sk-{self.draw.random()}", f"content-length: {len(body)}") + body)
        return await status(lines)

    async def large_body(self, lines: Lines) -> str:
        """Ten megabytes, with a length or, every other time, without one."""
        if self.draw.random() < 0.5:
            lines[1].write(self.head(self.key, f"content-length: {BODY_BYTES}"))
            return await self.pour(lines, b"a" * 65536, BODY_BYTES // 65536)
        lines[1].write(self.head(self.key, "transfer-encoding: chunked"))
        return await self.pour(lines, CHUNK, BODY_BYTES // 65536)

    async def pour(self, lines: Lines, piece: bytes, times: int) -> str:
        """Send pieces until the server has had enough, and read what it says."""

        async def send() -> None:
            with contextlib.suppress(OSError):
                for _ in range(times):
                    lines[1].write(piece)
                    await lines[1].drain()

        sending = asyncio.create_task(send())
        try:
            return await status(lines)
        finally:
            sending.cancel()

    async def slow(self, lines: Lines) -> str:
        """Headers without end, a few bytes at a time."""
        lines[1].write(f"POST {PATH} HTTP/1.1\r\nhost: x\r\n".encode())
        while not lines[0].at_eof():
            lines[1].write(b"x-a: 1\r\n")
            await lines[1].drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(lines[0].read(1), DRIP_SECONDS)
        return "closed"

    async def leaver(self, lines: Lines) -> str:
        """A stream that is left after its first piece."""
        body = json.dumps(STREAM).encode()
        lines[1].write(self.head(self.key, f"content-length: {len(body)}") + body)
        met = await status(lines)
        if met == "200":
            await lines[0].readuntil(b"data: ")
        return met


async def status(lines: Lines) -> str:
    """The status of the answer."""
    return (await lines[0].readuntil(b"\r\n")).split()[1].decode()


async def main(url: str, key: str, seconds: float, number: int = CLIENTS) -> None:
    crowd = Crowd(url, key)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    kinds = {"wrong key": crowd.wrong_key, "10 MB": crowd.large_body, "slow": crowd.slow, "leaver": crowd.leaver}
    names = [list(kinds)[place % len(kinds)] for place in range(number)]
    clients = [asyncio.create_task(crowd.client(name, kinds[name])) for name in names]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            for _ in clients:
                await crowd.began.acquire()
            print("ready", flush=True)
            await stop.wait()
    for client in clients:
        client.cancel()
    await asyncio.wait(clients)
    for client in clients:
        if not client.cancelled() and (error := client.exception()) is not None:
            raise error
    print(json.dumps(dict(sorted(crowd.met.items()))), flush=True)


if __name__ == "__main__":
    os.nice(10)
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), *map(int, sys.argv[4:])))
