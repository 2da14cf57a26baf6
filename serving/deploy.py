"""One endpoint on Ray Serve from start to end: deployed, waited for until it generates, and gone without a trace."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from manta import cluster
from manta.artifact import Resolved
from manta.errors import InputError, StageFailed
from manta.progress import Progress
from manta.schema import ServeRecipe
from serving import launch as launches
from serving.door import keys
from serving.launch import Launch

START_SECONDS = 900.0  # a large model from slow storage; a failed constructor is reported at once
STOP_SECONDS = 60.0


class Running(NamedTuple):
    """An endpoint that answers. `processes` are its replica and engine, where they are on this machine: pid -> birth."""

    url: str
    launch: Launch
    ready_seconds: float
    processes: dict[int, int]
    key: str | None = None  # good for as long as the endpoint, kept nowhere


@contextlib.contextmanager
def endpoint(
    recipe: ServeRecipe,
    progress: Progress,
    inputs: Mapping[str, Resolved] | None = None,
    proven: bool = True,
    own_key: bool = False,
) -> Iterator[Running]:
    """An endpoint for the length of a block: ready when it begins; gone, with all its processes, when it ends.

    With `own_key` it takes a fresh key besides those of its file, for whoever started it.
    Raises InputError or GateRefused before anything starts, StageFailed when the engine does not come up.
    """
    key = keys.fresh() if own_key else None
    launch = launches.prepare(recipe, inputs, proven, () if key is None else (keys.digest(key),))
    started = time.monotonic()
    # Twice, so that an update can start new replicas beside all old ones.
    cluster.connect(recipe.resources.address, 2 * sum(one.max_replicas * one.cpus for one in launch.served))
    _check_fits(launch)
    _quieten_serve()
    if recipe.name in _applications():
        raise InputError(
            f"name = {recipe.name!r}: the cluster serves an application of this name already: choose another"
        )
    progress.note(f"starting {recipe.name} on {launch.url}")
    processes: dict[int, int] = {}
    begun = False
    try:
        handle = wait_running(launch, _deploy(launch))
        begun = True
        if cluster.is_local():
            processes.update(processes_of(handle))
        yield Running(launch.url, launch, time.monotonic() - started, processes, key)
    finally:
        _end(recipe.name, processes, begun)


def processes_of(handle: Any) -> dict[int, int]:
    """The endpoint's processes on this machine: pid -> birth."""
    found = handle.process_ids.remote().result(timeout_s=30)
    return {pid: birth for pid in found if (birth := born(pid)) is not None}


def _quieten_serve() -> None:
    """Serve tells this process's stderr each step it takes; its import sets that up, so it comes first."""
    import ray.serve  # noqa: F401

    logging.getLogger("ray.serve").setLevel(logging.WARNING)


def _check_fits(launch: Launch) -> None:
    import ray

    have = {"cpus": cluster.total_cpus(), "gpus": int(ray.cluster_resources().get("GPU", 0))}
    for key, total in have.items():
        needs = [(one.name, max(1, one.min_replicas), getattr(one, key)) for one in launch.served]
        needed = sum(replicas * each for _, replicas, each in needs)
        if needed > total:
            listed = " + ".join(f"{replicas} x {each} ({name})" for name, replicas, each in needs)
            raise InputError(
                f"min_replicas x {key}_per_replica = {listed} needs {needed} {key.upper()}, the cluster has {total}: "
                "lower one of them or add nodes"
            )


def _deploy(launch: Launch) -> str:
    """Hand the application to Serve. Returns the name of the deployment that clients meet."""
    from ray import serve

    # What opens the port is ours: Serve's proxies would copy each token once more, at ten times the cost.
    serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING", "enable_access_log": False})
    return submit(launch)


def submit(launch: Launch) -> str:
    """Have Serve make the application this. Returns the name of the deployment that clients meet."""
    from ray import serve

    from serving.app import ENDPOINT, FRONT, application

    local = cluster.is_local()
    direct = local and launch.is_single
    made = application(launch, direct, 1 if local else cluster.count_nodes(), local)
    target = serve.RunTarget(made, name=launch.name, route_prefix=None)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    return ENDPOINT if direct else FRONT


def controller() -> Any:
    """Serve's controller as this driver knows it, None where Serve does not run."""
    from ray.serve.context import _get_global_client

    return _get_global_client(raise_if_no_controller_running=False)


def running_replicas(name: str) -> dict[str, int]:
    """How many replicas of each deployment of an application answer now."""
    found = _applications()[name].deployments
    return {one: int(status.replica_states.get("RUNNING", 0)) for one, status in found.items()}


def _applications() -> dict[str, Any]:
    """The applications that Serve runs on this cluster now."""
    from ray import serve

    return {} if controller() is None else dict(serve.status().applications)


def wait_running(launch: Launch, deployment: str) -> Any:
    """Wait until Serve says RUNNING and the endpoint says ready. Returns a handle of the deployment."""
    from ray import serve

    name = launch.name
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        known = _applications().get(name)
        status = known.status if known is not None else "NOT_STARTED"
        if known is not None and status in ("DEPLOY_FAILED", "UNHEALTHY"):
            reasons = [known.message, *(item.message for item in known.deployments.values())]
            raise StageFailed(f"the endpoint {name} did not start: {_reason(reasons)}")
        if status == "RUNNING" and is_ready(launch.url):
            return serve.get_deployment_handle(deployment, name)
        time.sleep(0.2)
    raise StageFailed(
        f"the endpoint {name} is not ready after {START_SECONDS:.0f} s (Serve says {status}): see Ray's logs"
    )


def _reason(messages: list[str]) -> str:
    """The line of Serve's report that says what went wrong: the last one of the traceback it holds."""
    for message in messages:
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        errors = [line for line in lines if not line.startswith(("File ", "^", "The deployment", "Traceback"))]
        marked = [line for line in errors if "Error" in line or "Exception" in line]
        if marked:
            return marked[-1]
    return next((message for message in messages if message), "no reason was given")


def is_ready(url: str) -> bool:
    """Whether the endpoint generates: its own word, from /ready."""
    return _says_ok(f"{url}/ready")


def is_healthy(url: str) -> bool:
    """Whether the endpoint's engine lives: its own word, from /health."""
    return _says_ok(f"{url}/health")


def _says_ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _end(name: str, processes: Mapping[int, int], begun: bool = True) -> None:
    """Stop the application (and Serve, where it is ours), then make sure that its processes and its port are gone.

    One that never `begun` to answer has nothing to bring to an end.
    """
    import ray
    from ray import serve

    if not ray.is_initialized():
        return
    if not begun and name in _applications():
        _kill_replicas(name)
    if set(_applications()) <= {name}:
        serve.shutdown()
    else:  # others' applications run on this cluster
        serve.delete(name)
    end_processes(processes, STOP_SECONDS)


def _kill_replicas(name: str) -> None:
    """End the replicas of an application at once. Those that load a model hear nothing meanwhile, and Serve would wait for
    them as long as for answers that are on their way.
    """
    import ray
    from ray import serve
    from ray.serve._private.common import REPLICA_ID_FULL_ID_STR_PREFIX
    from ray.serve._private.constants import SERVE_NAMESPACE

    serve.delete(name, _blocking=False)  # first, so that none is started anew
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == SERVE_NAMESPACE and actor["name"].startswith(
            f"{REPLICA_ID_FULL_ID_STR_PREFIX}{name}#"
        ):
            with contextlib.suppress(ValueError):  # it has ended by itself
                ray.kill(ray.get_actor(actor["name"], SERVE_NAMESPACE))


def end_processes(processes: Mapping[int, int], patience: float) -> None:
    """Wait until the processes (pid -> birth) have ended; what is left after `patience` seconds is killed."""
    deadline = time.monotonic() + patience
    while left := [pid for pid, birth in processes.items() if is_alive(pid, birth)]:
        if time.monotonic() > deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.05)


def is_alive(pid: int, birth: int) -> bool:
    """Whether this very process runs: not one that got its number since, nor a dead one nobody has waited for."""
    fields = _stat(pid)
    return fields is not None and fields[0] != "Z" and int(fields[19]) == birth


def born(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None where it is gone."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat behind the name, from the state on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
