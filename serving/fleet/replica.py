"""One replica of a model behind a Front: its engine, and the private port on which Fronts ask it."""

from __future__ import annotations

from typing import Any

from serving.fleet.host import Host
from serving.launch import Served


class Replica(Host):
    """The Serve deployment of one model. `first_core`: see cores.py; None binds to none. `local`: all is on one machine."""

    async def __init__(self, served: Served, first_core: int | None, local: bool, drain_seconds: float) -> None:  # type: ignore[misc] # Serve awaits it
        import ray
        from ray import serve

        from serving.door.server import listen
        from serving.engines.runners import RUNNERS
        from serving.fleet import cores, ports
        from serving.fleet.private import Private
        from serving.fleet.probe import Probe

        if local:
            ports.keep_private()
        context = serve.get_replica_context()
        self._name = context.replica_id.unique_id
        if first_core is not None:
            assert context.rank is not None, "Serve ranks the replicas of a deployment"
            cores.bind(context.rank.local_rank, first_core, served.cpus)
        self._engine = await RUNNERS[served.runner](served)
        if not await Probe(self._engine).passes():
            raise RuntimeError("the engine started, but gives no answer: see the log of this replica")
        self._private = Private(self._engine, served)
        self._host = "127.0.0.1" if local else ray.util.get_node_ip_address()
        self._server, self._serving, self._port = await listen(self._private, self._host, 0, drain_seconds)

    async def record_replica_metadata(self) -> dict[str, Any]:
        """What Serve tells the routers of all Fronts about this replica."""
        return {"host": self._host, "port": self._port, "token": self._private.token}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return self._private.load.figures()

    async def wake(self) -> None:
        """Nothing: that Serve carries it here means that there is a replica."""

    async def metrics(self) -> tuple[str, str]:
        """Serve's id of this replica, and the engine's metrics in Prometheus' text format."""
        return self._name, (await self._private.metrics()).decode()
