"""The Front of an endpoint: opens its port, holds keys and limits, and has the replicas of its models answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

from serving.launch import Launch


class Front:
    """The Serve deployment that clients meet. `replicas`: name of a model -> Serve's handle of its replicas. `local`: all
    is on one machine."""

    async def __init__(self, launch: Launch, replicas: Mapping[str, Any], local: bool, drain_seconds: float) -> None:  # type: ignore[misc] # Serve awaits it
        from serving import access, ports
        from serving.fleet import Fleet
        from serving.gateway import Gateway
        from serving.server import listen

        if local:
            ports.keep_private()
        access.open_file(launch.access_log or access.rays_logs(), f"access-{launch.name}-{os.getpid()}")
        self._fleet = Fleet(launch, replicas)
        self._gateway = Gateway(self._fleet, self._fleet, launch)
        self._server, self._serving, _ = await listen(self._gateway, launch.host, launch.port, drain_seconds)

    async def check_health(self) -> None:
        """Serve asks every second; raising makes it replace this Front."""
        if self._serving.done():
            raise RuntimeError("the HTTP server has ended")

    async def process_ids(self) -> list[int]:
        """This process, and those of all replicas."""
        found = await asyncio.gather(*(team.process_ids() for team in self._fleet.teams.values()))
        return [os.getpid(), *(pid for replicas in found for pids in replicas for pid in pids)]

    async def __del__(self) -> None:
        if hasattr(self, "_serving"):
            self._server.should_exit = True
            await self._serving
            self._fleet.lines.close()
