"""Start an endpoint, keep it until told to stop, and end it without leaving a process: blocking or detached."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from manta import artifact as artifacts
from manta import cluster
from manta import recipe as recipes
from manta.artifact import Resolved
from manta.errors import EXIT_DONE, EXIT_INTERRUPTED, GateRefused, InputError, MantaError, StageFailed
from manta.progress import Progress
from manta.schema import ServeRecipe
from manta.storage import Folder
from serving import launch as launches
from serving.launch import Launch

START_SECONDS = 900.0  # a large model from slow storage; a failed constructor is reported at once
STOP_SECONDS = 60.0
STATE, LOG, RECIPE = "server.json", "server.log", "server.yaml"


class Running(NamedTuple):
    """An endpoint that answers. `process_ids` are its replicas and engines, where they are on this machine."""

    url: str
    launch: Launch
    ready_seconds: float
    process_ids: tuple[int, ...]


# --- in this process -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def endpoint(
    recipe: ServeRecipe, progress: Progress, inputs: Mapping[str, Resolved] | None = None, proven: bool = True
) -> Iterator[Running]:
    """An endpoint for the length of a block: ready when it begins; gone, with all its processes, when it ends.

    Raises InputError or GateRefused before anything starts, StageFailed when the engine does not come up.
    """
    launch = launches.prepare(recipe, inputs, proven)
    started = time.monotonic()
    settings, resources = recipe.serve, recipe.resources
    cluster.connect(resources.address, settings.max_replicas * resources.cpus_per_replica)
    _check_fits(recipe)
    progress.note(f"starting {recipe.name} on {launch.url}")
    # One replica on this machine opens the port itself: no proxy, no copy of each token between processes.
    listen = settings.max_replicas == 1 and cluster.is_local()
    process_ids: tuple[int, ...] = ()
    try:
        url = _deploy(recipe, launch, listen)
        handle = _wait_running(recipe.name, url)
        if listen:
            process_ids = tuple(handle.process_ids.remote().result(timeout_s=30))
        yield Running(url, launch, time.monotonic() - started, process_ids)
    finally:
        _end(recipe.name, process_ids)


def _check_fits(recipe: ServeRecipe) -> None:
    import ray

    resources, replicas = recipe.resources, recipe.serve.min_replicas
    have = ray.cluster_resources()
    cpus, gpus = cluster.total_cpus(), int(have.get("GPU", 0))
    for key, each, total in (("cpus", resources.cpus_per_replica, cpus), ("gpus", resources.gpus_per_replica, gpus)):
        if replicas * each > total:
            raise InputError(
                f"serve.min_replicas = {replicas} x resources.{key}_per_replica = {each} needs {replicas * each} {key.upper()}, "
                f"the cluster has {total}: lower one of them or add nodes"
            )


def _deploy(recipe: ServeRecipe, launch: Launch, listen: bool) -> str:
    """Hand the application to Serve, starting Serve where it does not run yet. Returns the endpoint's URL."""
    from ray import serve

    from serving.app import application

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    url = launch.url
    if listen:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING", "enable_access_log": False})
    else:
        _refuse_taken_name(recipe.name)
        serve.start(
            proxy_location="EveryNode",
            # A token is passed on when it is there; Serve would collect what 50 ms bring.
            http_options={"host": launch.host, "port": launch.port, "request_timeout_s": None},
            logging_config={"log_level": "WARNING", "enable_access_log": False},
        )
    target = serve.RunTarget(
        application(recipe, launch, listen), name=recipe.name, route_prefix=None if listen else "/"
    )
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    return url


def _refuse_taken_name(name: str) -> None:
    from ray import serve

    with contextlib.suppress(serve.exceptions.RayServeException):
        if name in serve.status().applications:
            raise InputError(
                f"name = {name!r}: an application of this name runs on the cluster already: stop it, or choose another name"
            )


def _wait_running(name: str, url: str) -> Any:
    """Wait until Serve says RUNNING and the endpoint says ready. Returns the application's handle."""
    from ray import serve

    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        known = serve.status().applications.get(name)
        status = known.status if known is not None else "NOT_STARTED"
        if known is not None and status in ("DEPLOY_FAILED", "UNHEALTHY"):
            reasons = [known.message, *(item.message for item in known.deployments.values())]
            raise StageFailed(f"the endpoint {name} did not start: {_reason(reasons)}")
        if status == "RUNNING" and is_ready(url):
            return serve.get_deployment_handle("Endpoint", name)
        time.sleep(0.1)
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
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _end(name: str, process_ids: tuple[int, ...]) -> None:
    """Stop the application (and Serve, where it is ours), then make sure that its processes and its port are gone."""
    import ray
    from ray import serve

    if not ray.is_initialized():
        return
    # Ray prints the controller's own end as failed tasks, on stdout, where programs expect ours.
    with contextlib.redirect_stdout(io.StringIO()):
        if cluster.is_local():
            serve.shutdown()
        else:
            serve.delete(name)
        deadline = time.monotonic() + STOP_SECONDS
        while any(_alive(pid) for pid in process_ids):
            if time.monotonic() > deadline:
                for pid in filter(_alive, process_ids):
                    os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.05)


def serve(recipe: ServeRecipe, progress: Progress) -> None:
    """Run the endpoint until Ctrl-C, then shut it down."""
    progress.begin(f"serve {recipe.name}", kind="serve", name=recipe.name)
    with endpoint(recipe, progress) as running:
        described = {"url": running.url, "model": recipe.name, "fingerprint": running.launch.fingerprint}
        progress.note(
            f"ready after {running.ready_seconds:.0f} s: {running.url}/v1 (model {recipe.name!r}); Ctrl-C stops it",
            **described,
        )
        _announce(running)
        try:
            _watch(recipe.name, running.url, progress)
        except KeyboardInterrupt:
            progress.note("stopping")
    progress.note("stopped")
    progress.end()


def _watch(name: str, url: str, progress: Progress) -> None:
    """Say when the endpoint breaks and when it is back; Serve replaces dead replicas by itself. Ends by Ctrl-C."""
    good = True
    while True:
        time.sleep(2)
        if _listens(url) != good:
            good = not good
            progress.note("answering again" if good else f"{name} does not answer: Serve is restarting it")


def _listens(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


# --- detached --------------------------------------------------------------------------------------------------------


def detach(recipe: ServeRecipe, progress: Progress) -> str:
    """Start the endpoint as a process of its own, wait until it is ready, and return what to tell the user.

    Raises what the endpoint's own start raised.
    """
    launches.prepare(recipe)
    folder = _state_folder(recipe)
    if (state := _read_state(folder)) is not None and _is_server(state):
        raise InputError(
            f"{recipe.name} runs already: {state['url']} (process {state['pid']}); `manta serve stop {folder}` ends it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATE).unlink(missing_ok=True)
    Folder(folder).write_text(RECIPE, recipes.to_yaml(recipe))
    progress.note(f"starting {recipe.name} in the background; its log is {folder / LOG}")
    with (folder / LOG).open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "serving.run", str(folder / RECIPE)]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        while (state := _read_state(folder)) is None:
            if child.poll() is not None:
                raise _as_it_was(child.returncode, (folder / LOG).read_text(encoding="utf-8"), folder / LOG)
            time.sleep(0.1)
    except KeyboardInterrupt:
        child.send_signal(signal.SIGTERM)
        child.wait(STOP_SECONDS)
        raise
    return (
        f"{recipe.name} is ready: {state['url']}/v1 (process {state['pid']})\n"
        f"  manta chat {state['url']}\n  manta serve stop {folder}"
    )


def stop(target: str) -> str:
    """End a detached endpoint, named by its recipe file, its folder or its name. Returns what to tell the user."""
    folder = _find_state(target)
    state = _read_state(folder)
    if state is None:
        raise InputError(f"no endpoint was started in {folder} (no {STATE}): `manta serve RECIPE --detach` starts one")
    if not _is_server(state):
        (folder / STATE).unlink(missing_ok=True)
        return f"{state['name']} was not running any more (process {state['pid']} is gone)"
    os.kill(state["pid"], signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while _is_server(state):
        if time.monotonic() > deadline:
            os.killpg(state["pid"], signal.SIGKILL)  # it leads a session of its own: nothing else is in its group
            deadline += STOP_SECONDS
        time.sleep(0.1)
    left = [pid for pid in state["process_ids"] if _alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    (folder / STATE).unlink(missing_ok=True)
    return f"{state['name']} is stopped ({state['url']} is free)"


def _announce(running: Running) -> None:
    """Tell `detach`, if it started this process, that the endpoint is ready."""
    folder = os.environ.get("MANTA_SERVER_FOLDER")
    if folder is not None:
        state = {
            "name": running.launch.name,
            "url": running.url,
            "pid": os.getpid(),
            "born": _born(os.getpid()),
            "process_ids": list(running.process_ids),
            "fingerprint": running.launch.fingerprint,
            "ready_seconds": round(running.ready_seconds, 1),
        }
        Folder(folder).write_text(STATE, json.dumps(state, indent=2) + "\n")


def _state_folder(recipe: ServeRecipe) -> Path:
    folder = Folder(artifacts.locate(recipe.name, recipe.output)).local_path
    if folder is None:
        raise InputError(
            f"output = {recipe.output!r}: --detach keeps its log and state there, so it must be a local folder"
        )
    return folder


def _find_state(target: str) -> Path:
    path = Path(target)
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        recipe = recipes.load(path, kind="serve")
        assert isinstance(recipe, ServeRecipe)
        return _state_folder(recipe)
    if path.is_dir():
        return path
    return Path(artifacts.locate(target, "runs"))


def _read_state(folder: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads((folder / STATE).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise InputError(f"{folder / STATE} is damaged ({error}): delete it") from error


def _is_server(state: Mapping[str, Any]) -> bool:
    """Whether the process of a state file is still that one, not another that got its number since."""
    return _alive(state["pid"]) and _born(state["pid"]) == state["born"]


def _born(pid: int) -> int | None:
    """When a process began, in clock ticks since boot; None where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _alive(pid: int) -> bool:
    """Whether a process runs: a dead one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _as_it_was(code: int, log: str, where: Path) -> MantaError:
    """The error that ended a detached start, from its exit code and the end of its log."""
    lines = [line for line in log.splitlines() if line.startswith("manta: ")]
    said = lines[-1].removeprefix("manta: ") if lines else f"it ended with exit code {code}"
    kinds = {InputError.exit_code: InputError, GateRefused.exit_code: GateRefused}
    return kinds.get(code, StageFailed)(f"{said} (log: {where})")


def main(arguments: list[str]) -> int:
    """The process that `detach` starts. Messages go to its log, which `detach` reads when the start fails."""
    [file] = arguments
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ["MANTA_SERVER_FOLDER"] = str(Path(file).parent)
    progress = Progress()
    try:
        recipe = recipes.load(file, kind="serve")
        assert isinstance(recipe, ServeRecipe)
        serve(recipe, progress)
    except MantaError as error:
        print(f"manta: {error}".replace("\n", " "), file=sys.stderr, flush=True)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    finally:
        cluster.disconnect()
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
