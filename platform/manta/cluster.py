"""The one place that connects to Ray and does resource arithmetic."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manta.errors import InputError, StageFailed
from manta.progress import Progress

# A local Ray gets a few logical CPUs more than the machine has cores: Ray Data's readers and the Serve controller must
# be schedulable while training workers hold every core, and they idle most of the time.
SPARE_CPUS = 2
START_ATTEMPTS = 3
_LOCAL_MARK = "manta_local"  # a resource by which every process of a local Ray knows where it is

# Read by Ray's own processes when they start, so they must be set before Ray is imported.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def in_job() -> bool:
    """Whether this process is the driver of a submitted Ray job."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def connect(address: str | None = None, minimum_cpus: int = 0) -> None:
    """Connect to the cluster of `address` (or of the job this is), or start Ray on this machine. Idempotent.

    Raises InputError when the address does not answer, StageFailed when a local Ray cannot start.
    """
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import ray

    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
    logging.getLogger("ray").setLevel(logging.ERROR)  # what stops a run is raised as an exception
    with _signals_kept():
        _keep_stdout()
        if in_job() or address:
            _join(address or "auto", options)
        else:
            _start(max(len(os.sched_getaffinity(0)), minimum_cpus), options)


def _join(address: str, options: dict[str, Any]) -> None:
    import ray

    remedy = "start one with `ray start --head`, or leave the address out to use this machine"
    _probe(address, remedy)
    if in_job():
        # Workers of a job get the job's own copy of Manta, which may differ from an installed one.
        options = {**options, "runtime_env": {"py_modules": [str(path) for path in _own_packages()]}}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"resources.address = {address!r}: no Ray cluster answers ({error}): {remedy}") from error


def _probe(address: str, remedy: str) -> None:
    """Raise InputError within seconds where nothing listens: Ray itself would go on trying for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto", a name: Ray knows where to look
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise InputError(f"resources.address = {address!r}: no Ray cluster answers ({error}): {remedy}") from error


def _start(cores: int, options: dict[str, Any]) -> None:
    from unittest import mock

    import ray
    from ray._private import ray_constants

    mine: dict[str, Any] = {"num_cpus": cores + SPARE_CPUS, "resources": {_LOCAL_MARK: 1}, "include_dashboard": False}
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            # As on macOS and Windows: the node is 127.0.0.1, and Ray's own ports are open to this machine only.
            with mock.patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False):
                ray.init(address="local", **mine, **options)
            return
        except Exception as error:  # Ray raises bare ones here: its 30 seconds are too few on a busy machine
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                remedy = "close other programs, then run the same command again; `manta doctor` shows what is missing"
                raise StageFailed(
                    f"Ray did not start on this machine in {attempt} attempts: {error}: {remedy}"
                ) from error


def _keep_stdout() -> None:
    """Send what Ray's daemons announce to stderr: Ray 2.60 prints it on stdout, among the JSON lines of a run."""
    import ray._private.worker as internals

    internals.print_to_stdstream = _announce


# Advice on counts of worker processes, which Manta chose on purpose; and Serve's own way of ending its controller.
_NOISE = ("worker processes have been started", "was killed by `ray.kill`")


def _announce(data: dict[str, Any], *_: Any, **__: Any) -> None:
    """Print a daemon's messages, but for those that mean nothing to anyone."""
    for line in data.get("lines", ()):
        if not any(noise in line for noise in _NOISE):
            sys.stderr.write(f"ray: {line}\n")


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Undo the SIGTERM handler that Ray installs: ours turns the signal into an orderly interruption."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def disconnect() -> None:
    """Leave the cluster; a local Ray's processes end with it."""
    if "ray" in sys.modules:
        import ray

        ray.shutdown()


def _own_packages() -> list[Path]:
    here = Path(__file__).resolve().parent
    serving = here.parent.parent / "serving"
    return [here, *([serving] if serving.is_dir() else [])]


def total_cpus() -> int:
    """CPUs that work may be given: all of a cluster's, or this machine's cores when Ray is local."""
    import ray

    found = int(ray.cluster_resources().get("CPU", 0))
    return max(1, found - SPARE_CPUS) if is_local() else found


def count_nodes() -> int:
    """Machines of the connected Ray that are there now."""
    import ray

    return sum(1 for node in ray.nodes() if node["Alive"])


def is_local() -> bool:
    """Whether the connected Ray is one that Manta started on this machine; true in its workers as well."""
    import ray

    return _LOCAL_MARK in ray.cluster_resources()


def check_fits(workers: int, cpus_per_worker: int, gpus_per_worker: float) -> None:
    """Raise InputError if the connected cluster can never hold these workers at once."""
    import ray

    resources = ray.cluster_resources()
    cpus, gpus = total_cpus(), resources.get("GPU", 0)
    if workers * cpus_per_worker > cpus:
        raise InputError(
            f"resources.workers = {workers} x resources.cpus_per_worker = {cpus_per_worker} needs "
            f"{workers * cpus_per_worker} CPUs, the cluster has {cpus}: set resources.workers={max(1, cpus // cpus_per_worker)} or add nodes"
        )
    if workers * gpus_per_worker > gpus:
        raise InputError(
            f"resources.workers = {workers} x resources.gpus_per_worker = {gpus_per_worker} needs "
            f"{workers * gpus_per_worker:g} GPUs, the cluster has {gpus:g}: set resources.gpus_per_worker=0 or add nodes"
        )


# --- progress from workers -------------------------------------------------------------------------------------------


class _Mailbox:
    """Holds what workers report until the driver fetches it; also carries the driver's wish to stop."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        self._told: set[str] = set()
        self._stopping = False

    def put(self, message: dict[str, Any]) -> bool:
        """Leave a message; returns whether the driver wants the work to stop at the next safe point."""
        if message.get("once") not in self._told:
            self._messages.append(message)
        if "once" in message:
            self._told.add(message["once"])
        return self._stopping

    def drain(self) -> list[dict[str, Any]]:
        messages, self._messages = self._messages, []
        return messages

    def stop(self) -> None:
        self._stopping = True


@contextlib.contextmanager
def relay(progress: Progress) -> Iterator[Any]:
    """Yield an actor handle that workers may `put.remote(message)` to; messages reach `progress` within half a second.

    A message is {"update": {done, total, unit, ...figures}} or {"note": text}; of those with the same "once", the first
    is told. The actor takes no CPU, and stays on the driver's node: others may leave.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    mailbox = ray.remote(num_cpus=0, scheduling_strategy=here)(_Mailbox).remote()
    finished = threading.Event()

    def deliver() -> None:
        for message in ray.get(mailbox.drain.remote(), timeout=5):
            if "update" in message:
                progress.update(**message["update"])
            if "note" in message:
                progress.note(message["note"])

    def pump() -> None:
        while not finished.wait(0.5):
            try:
                deliver()
            except ray.exceptions.RayError:
                return  # Ray is going down; the stage itself reports why

    thread = threading.Thread(target=pump, name="manta-progress", daemon=True)
    thread.start()
    try:
        yield mailbox
    finally:
        finished.set()
        thread.join(timeout=10)  # longer than a delivery may take: nothing may ask Ray when it has shut down
        if ray.is_initialized():
            with contextlib.suppress(ray.exceptions.RayError):
                deliver()
                ray.kill(mailbox)
