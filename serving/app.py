"""The Ray Serve application: one replica that holds the port itself, or Fronts that do and replicas behind them."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from manta import cluster
from manta import recipe as recipes
from manta.errors import InputError
from manta.schema import ServeRecipe
from serving import launch as launches
from serving.fleet import scale
from serving.fleet.host import Host
from serving.launch import Launch, Served

ENDPOINT, FRONT = "Endpoint", "Front"  # names of deployments; Served.deployment is that of a model's replicas
DRAIN_SECONDS = 15.0  # answers that are on their way may take this long when the endpoint stops
SPARE_REQUESTS = 64  # Serve would admit this many beyond the gateway's limit: it is the gateway that answers "busy"
# Serve's router picks on the Front's own event loop: no hop between threads, and nothing comes between pick and count.
FRONT_ENVIRONMENT = {"RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"}
SURGE_PERCENT = 100  # of the replicas may be new ones that start beside them while a model is replaced


class Endpoint(Host):
    """The only replica of an endpoint's only model, with the gateway around it: it opens the endpoint's port itself."""

    async def __init__(self, launch: Launch) -> None:  # type: ignore[misc] # Serve awaits it
        from serving.door import access
        from serving.door.gateway import Gateway
        from serving.door.server import listen
        from serving.engines.runners import RUNNERS
        from serving.fleet import ports

        ports.keep_private()
        [served] = launch.served
        access.open_file(launch.access_log or access.rays_logs(), f"access-{launch.name}-{os.getpid()}")
        self._engine = await RUNNERS[served.runner](served)
        self._gateway = Gateway(self._engine.app, self._engine, launch)
        if not await self._gateway.ready():
            raise RuntimeError("the engine started, but cannot generate a token: see the log of this replica")
        self._server, self._serving, _ = await listen(
            self._gateway, launch.host, launch.port, DRAIN_SECONDS, self._gateway.refuse
        )


def application(launch: Launch, direct: bool, fronts: int = 1, local: bool = True) -> Any:
    """The bound Serve application of a launch.

    `direct`: its only replica opens the port itself. Else `fronts` Fronts do, one on each node, and have the replicas
    answer. `local`: all of it runs on one machine.
    """
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    from serving.fleet import cores
    from serving.fleet.front import Front
    from serving.fleet.replica import Replica
    from serving.fleet.routing import ROUTERS

    if direct:
        [served] = launch.served
        return _deployment(Endpoint, ENDPOINT, served, launch, DRAIN_SECONDS, num_replicas=1).bind(launch)
    begin = cores.first_cores(launch.versions)
    router = RequestRouterConfig(request_router_class=ROUTERS[launch.routing])
    replicas = {}
    for one in launch.versions:
        number = scale.options(one.min_replicas, one.max_replicas, launch.scale)
        made = _deployment(
            Replica,
            one.deployment,
            one,
            launch,
            launch.request_seconds,
            request_router_config=router,
            max_surge_percent=SURGE_PERCENT,
            **number,
        ).options(version=version(one, local), _internal=True)
        first = None if one.gpus else begin[one.deployment]
        replicas[one.deployment] = made.bind(one, first, local, launch.request_seconds)
    front = serve.deployment(
        Front,
        name=FRONT,
        num_replicas=fronts,
        max_replicas_per_node=1,
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": FRONT_ENVIRONMENT}},
        user_config=launches.to_plain(launch),
        **_manners(DRAIN_SECONDS),
    ).options(version=f"{launch.host}:{launch.port}", _internal=True)
    return front.bind(replicas, launch.host, launch.port, local, DRAIN_SECONDS)


def version(served: Served, local: bool) -> str:
    """What replicas have in common that need not be replaced by one another: all that they were started with, but not
    how many they are, nor beside whom."""
    plain = dataclasses.asdict(served)
    return recipes.digest({**plain, "min_replicas": None, "max_replicas": None, "slot": None, "local": local})


def _deployment(body: type, name: str, served: Served, launch: Launch, drain_seconds: float, **options: Any) -> Any:
    """The deployment of what runs a model."""
    from ray import serve

    from serving.engines.vllm import environment

    return serve.deployment(
        body,
        name=name,
        ray_actor_options={
            "num_cpus": served.cpus,
            "num_gpus": served.gpus,
            "runtime_env": {"env_vars": environment(served.cpus, served.gpus)},
        },
        max_ongoing_requests=served.max_ongoing_requests + launch.max_queued_requests + SPARE_REQUESTS,
        max_constructor_retry_count=1,
        **_manners(drain_seconds),
        **options,
    )


def _manners(drain_seconds: float) -> dict[str, Any]:
    """What all deployments have in common: they are looked at every second, and may finish what they have begun."""
    return {
        "health_check_period_s": 1.0,
        "health_check_timeout_s": 10.0,
        "graceful_shutdown_wait_loop_s": 0.1,
        "graceful_shutdown_timeout_s": drain_seconds + 5,
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    }


def build(args: dict[str, Any]) -> Any:
    """For `serve deploy`: `import_path: serving.app:build` with `args: {recipe: PATH}`, or the recipe itself for PATH.

    A Front on each node opens the recipe's port; Serve's own proxies are not needed (`proxy_location: Disabled`).
    """
    unknown = set(args) - {"recipe"}
    if "recipe" not in args or unknown:
        raise InputError(f"args = {args!r}: give exactly `recipe: PATH`")
    given = args["recipe"]
    recipe = recipes.load(given, kind="serve") if isinstance(given, str) else recipes.validate(given, "args", "serve")
    assert isinstance(recipe, ServeRecipe)
    # The port may be that of an earlier version of the same endpoint: it is Serve that has it taken over.
    free = recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"port": 0})})
    launch = launches.prepare(free)
    launch = dataclasses.replace(launch, port=recipe.serve.port or launch.port)
    nodes = cluster.count_nodes()
    return application(launch, direct=False, fronts=nodes, local=nodes == 1)
