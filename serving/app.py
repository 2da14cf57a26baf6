"""The Ray Serve application: one deployment whose replicas hold an engine and serve its HTTP themselves."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from manta import recipe as recipes
from manta.errors import InputError
from manta.schema import ServeRecipe
from serving import launch as launches
from serving.address import require_safe_host
from serving.launch import Launch

DEPLOYMENT = "Endpoint"
DRAIN_SECONDS = 15.0  # answers that are on their way may take this long when a replica stops
SPARE_REQUESTS = 64  # Serve admits this many beyond the gateway's limit: it is the gateway that answers "busy"


class Endpoint:
    """One replica. With `listen` it opens the endpoint's port itself, without it Serve's proxies bring requests."""

    async def __init__(self, launch: Launch, listen: bool) -> None:  # type: ignore[misc] # Serve awaits it
        from serving import access
        from serving.gateway import Gateway
        from serving.runners import RUNNERS
        from serving.server import listen as open_port

        [served] = launch.served
        access.open_file(launch.access_log or _rays_logs(), f"access-{launch.name}-{os.getpid()}")
        self._engine = await RUNNERS[served.runner](served)
        self._gateway = Gateway(self._engine.app, self._engine, launch)
        if not await self._gateway.ready():
            raise RuntimeError("the engine started, but cannot generate a token: see the log of this replica")
        self._server: Any = None
        self._serving: asyncio.Task[None] | None = None
        if listen:
            self._server, self._serving = await open_port(self._gateway, launch.host, launch.port, DRAIN_SECONDS)

    def __serve_build_asgi_app__(self) -> Any:
        return self._gateway

    async def check_health(self) -> None:
        """Serve asks every second; raising makes it replace this replica."""
        if not await self._engine.alive():
            raise RuntimeError("the engine is dead")
        if self._serving is not None and self._serving.done():
            raise RuntimeError("the HTTP server has ended")

    async def process_ids(self) -> list[int]:
        """This replica's process and its engine's."""
        return [os.getpid(), *self._engine.process_ids()]

    async def __del__(self) -> None:
        if getattr(self, "_serving", None) is not None:
            self._server.should_exit = True
            await self._serving  # type: ignore[misc]
        if hasattr(self, "_engine"):
            self._engine.stop()


def _rays_logs() -> str:
    """Where Serve keeps the logs of this node's replicas: Ray's dashboard shows them, and what collects Ray's logs finds them."""
    from ray.serve._private.logging_utils import get_serve_logs_dir

    return str(get_serve_logs_dir())


def application(launch: Launch, listen: bool) -> Any:
    """The bound Serve application of a launch. `listen`: its only replica opens the port itself."""
    from ray import serve

    from serving.engine import environment

    if len(launch.served) > 1:
        raise InputError(
            f"models = {', '.join(launch.models)}: an endpoint of several models is not served yet: name one"
        )
    [served] = launch.served
    options: dict[str, Any] = {"num_replicas": 1}
    if served.max_replicas > 1:
        target = max(1.0, 0.8 * served.max_ongoing_requests)
        options = {
            "autoscaling_config": {
                "min_replicas": served.min_replicas,
                "max_replicas": served.max_replicas,
                "target_ongoing_requests": target,
            }
        }
    deployment = serve.deployment(
        serve.ingress()(Endpoint),
        name=DEPLOYMENT,
        ray_actor_options={
            "num_cpus": served.cpus,
            "num_gpus": served.gpus,
            "runtime_env": {"env_vars": environment(served.cpus, served.gpus)},
        },
        max_ongoing_requests=served.max_ongoing_requests + launch.max_queued_requests + SPARE_REQUESTS,
        health_check_period_s=1.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=DRAIN_SECONDS + 5,
        max_constructor_retry_count=1,
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
        **options,
    )
    return deployment.bind(launch, listen)


def build(args: dict[str, str]) -> Any:
    """For `serve deploy`: `import_path: serving.app:build` with `args: {recipe: PATH}`. Serve's proxies listen.

    The YAML's `http_options` decide host and port there. Raises InputError where they are open and the recipe has no keys.
    """
    from serving.deploy import controller

    unknown = set(args) - {"recipe"}
    if "recipe" not in args or unknown:
        raise InputError(f"args = {args!r}: give exactly `recipe: PATH`")
    recipe = recipes.load(args["recipe"], kind="serve")
    assert isinstance(recipe, ServeRecipe)
    # The proxies hold the port already: it is not this builder's to take.
    free = recipe.model_copy(update={"serve": recipe.serve.model_copy(update={"port": 0})})
    launch = launches.prepare(free)
    if (serving := controller()) is not None:
        require_safe_host(serving.http_config.host, launch.has_keys)
    return application(launch, listen=False)
