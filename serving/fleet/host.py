"""What every deployment that holds an engine has in common: its health, its processes and its end."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from serving.engines.runners import Runner


class Host:
    """An engine and the HTTP server that listens for it. What derives from it sets these three once they run."""

    _engine: Runner
    _server: Any  # uvicorn's
    _serving: asyncio.Task[None]

    async def check_health(self) -> None:
        """Serve asks every second; raising makes it replace this replica."""
        if not await self._engine.alive():
            raise RuntimeError("the engine is dead")
        if self._serving.done():
            raise RuntimeError("the HTTP server has ended")

    async def process_ids(self) -> list[int]:
        """This replica's process and its engine's."""
        return [os.getpid(), *self._engine.process_ids()]

    async def __del__(self) -> None:
        """Let what is on its way end, then end the engine. Serve sends nothing new here already."""
        if hasattr(self, "_serving"):
            self._server.should_exit = True
            await self._serving
        if hasattr(self, "_engine"):
            self._engine.stop()
