"""A load of streamed completions that costs its client little: raw sockets, chunks read as the server wrote them."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import harness
from endpoints import Server

from serving.bench.figures import percentile

TOKENS = 64
DONE = b"data: [DONE]"


@dataclass
class Stream:
    """One streamed answer: seconds to its first token, and between the pieces after it."""

    first: float
    gaps: list[float] = field(default_factory=list)


class Load:
    """Streams `requests` completions of TOKENS tokens each, `concurrency` at a time, over kept connections."""

    def __init__(self, server: Server, concurrency: int, requests: int):
        self.server, self.concurrency, self.requests = server, concurrency, requests

    def __call__(self) -> dict[str, Any]:
        with harness.measure([self.server.process.pid]) as window:
            streams = asyncio.run(self._all())
        firsts = [stream.first for stream in streams]
        return {
            "requests": len(streams),
            "tokens_per_s": len(streams) * TOKENS / window.wall_s,
            "first_token_ms": statistics.median(firsts) * 1000,
            "first_token_p99_ms": percentile(firsts, 99) * 1000,
            "between_tokens_p99_ms": percentile([gap for stream in streams for gap in stream.gaps], 99) * 1000,
            "cpu_ms_per_request": window.cpu_s / len(streams) * 1000,
        }

    async def _all(self) -> list[Stream]:
        share = self.requests // self.concurrency
        parts = await asyncio.gather(*(self._some(share, lane) for lane in range(self.concurrency)))
        return [stream for part in parts for stream in part]

    async def _some(self, count: int, lane: int) -> list[Stream]:
        host, _, port = self.server.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            return [await self._one(reader, writer, f"{lane} {number} def main(") for number in range(count)]
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, prompt: str) -> Stream:
        """One streamed completion. Raises RuntimeError where the server refuses it or sends no token."""
        wanted = {
            "model": "bench",
            "prompt": prompt,
            "max_tokens": TOKENS,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
        }
        body = json.dumps(wanted).encode()
        key = "" if self.server.key is None else f"authorization: Bearer {self.server.key}\r\n"
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\n{key}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        last = started = time.perf_counter()
        writer.write(head.encode() + body)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"the server answered {status.decode(errors='replace').strip()}")
        while await reader.readline() != b"\r\n":
            pass
        stream: Stream | None = None
        while size := int(await reader.readline(), 16):  # chunked transfer: length, data, empty line
            piece = await reader.readexactly(size + 2)
            moment = time.perf_counter()
            if stream is None:
                stream = Stream(moment - started)
            elif not piece.startswith(DONE):
                stream.gaps.append(moment - last)
            last = moment
        await reader.readline()
        if stream is None:
            raise RuntimeError("the server sent no token")
        return stream
