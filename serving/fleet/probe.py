"""Whether an engine works: asked of it by a small but real answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger("serving")

READY_SECONDS = 2.0  # a readiness answer is good for this long, so that asking often costs nothing
PROBE_SECONDS = 20.0  # a one-token generation that takes longer counts as not ready


class Engine(Protocol):
    """What the gateway asks of an engine besides its HTTP routes."""

    async def alive(self) -> bool:
        """Whether it can still answer at all."""

    async def generate_once(self) -> None:
        """Generate one token. Raises when that does not work."""


class Probe:
    """Asks an engine for one answer, at most every READY_SECONDS, whoever wants to know."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic):
        self.engine = engine
        self._clock = clock
        self._last: tuple[float, bool] | None = None
        self._asking = asyncio.Lock()

    async def passes(self) -> bool:
        """Whether a one-token generation works."""
        async with self._asking:
            moment = self._clock()
            if self._last is None or moment - self._last[0] > READY_SECONDS:
                self._last = (moment, await self._generates())
            return self._last[1]

    async def _generates(self) -> bool:
        if not await self.engine.alive():
            return False
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self.engine.generate_once()
        except Exception:
            log.exception("the readiness probe failed")
            return False
        return True
