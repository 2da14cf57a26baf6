"""The Front of an endpoint: opens its port, holds keys and limits, and has the replicas of its models answer."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
from collections.abc import Sequence
from typing import Any

from serving import launch as launches
from serving.door.answers import Answer, Header, Receive, Send
from serving.launch import Launch, Served

KUBERAY = "/-/healthz"  # a pod whose port 8000 answers this with "success" gets the Service's traffic


class Front:
    """The Serve deployment that clients meet. Serve tells it what it is the Front of, at the start and whenever that changes.

    `replicas` are the deployments of its models, here so that Serve counts them as parts of one application. `local`: all is
    on one machine.
    """

    def __init__(self, replicas: Any, host: str, port: int, local: bool, drain_seconds: float) -> None:  # noqa: ARG002
        from serving.fleet import ports

        if local:
            ports.keep_private()
        self._local = local
        self._place = (host, port, drain_seconds)
        self._id = secrets.token_hex(8)
        self._launch: Launch | None = None
        self._gateway: Any = None

    async def reconfigure(self, plain: dict[str, Any]) -> None:
        """Be the Front of this launch from now on. Requests that are on their way end as they began."""
        from ray import serve

        launch, context = launches.from_plain(plain), serve.get_replica_context()
        app = context.app_name

        def handles(served: tuple[Served, ...]) -> dict[str, Any]:
            return {one.name: serve.get_deployment_handle(one.deployment, app) for one in served}

        itself = dataclasses.replace(launch, canary=None)
        if itself != self._launch:  # a canary that comes or goes leaves limits, metrics and connections as they are
            await self._begin(itself, handles(launch.served), app, context.replica_id.unique_id)
        self._fleet.compare(launch.canary, handles(launch.canary.served) if launch.canary else {})

    async def _begin(self, launch: Launch, handles: dict[str, Any], app: str, me: str) -> None:
        from serving.door import access
        from serving.door.gateway import Gateway
        from serving.door.server import listen
        from serving.fleet import ledger
        from serving.fleet.fleet import Fleet

        self._launch = launch
        self._fleet = Fleet(launch, handles)
        begun = self._gateway is not None
        self._gateway = Gateway(self._fleet, self._fleet, launch)
        if not begun:
            access.open_file(launch.access_log or access.rays_logs(), f"access-{launch.name}-{os.getpid()}")
            if not self._local:  # there may be other Fronts
                self._sharing = asyncio.create_task(
                    ledger.share(me, lambda: self._gateway.limits, lambda: ledger.actor(app))
                )
            self._server, self._serving, _ = await listen(self._pass_on, *self._place, self._refuse)

    async def trials(self) -> tuple[str, dict[str, Any]]:
        """Whose counts they are, and of each model that two versions answer what this Front counted: see Trial.tell."""
        return self._id, {name: trial.tell() for name, trial in self._fleet.trials.items()}

    async def _pass_on(self, scope: Any, receive: Receive, send: Send) -> None:
        """The ASGI application of the port: the gateway of now. KubeRay asks what Serve's proxies would answer."""
        if scope["type"] == "http" and scope["path"] == KUBERAY:
            alive = await self._fleet.alive()
            return await Answer(send, []).plain(200 if alive else 503, b"success" if alive else b"unavailable")
        await self._gateway(scope, receive, send)

    def _refuse(self, method: bytes, target: bytes, headers: Sequence[Header]) -> bytes | None:
        """What the gateway of now refuses."""
        return None if target == KUBERAY.encode() else self._gateway.refuse(method, target, headers)

    async def check_health(self) -> None:
        """Serve asks every second; raising makes it replace this Front."""
        if self._serving.done():
            raise RuntimeError("the HTTP server has ended")

    async def process_ids(self) -> list[int]:
        """This process, and those of all replicas."""
        found = await asyncio.gather(*(team.process_ids() for team in self._fleet.all_teams))
        return [os.getpid(), *(pid for replicas in found for pids in replicas for pid in pids)]

    async def __del__(self) -> None:
        if hasattr(self, "_sharing"):
            self._sharing.cancel()
        if hasattr(self, "_serving"):
            self._server.should_exit = True
            await self._serving
            self._fleet.lines.close()
