"""Work that gets a process of its own on the cluster: engines that never give memory back, or that must start afresh."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manta.errors import MantaError, StageFailed


@dataclass(frozen=True)
class Call:
    """A module-level function with its arguments, the CPUs it may use (threads included), its environment, its GPUs."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    cpus: int
    memory: int = 0  # bytes it will need at most; Ray waits until a node has them free
    environment: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0


class _Process:
    """An actor rather than a task: `ray.cancel` of a task that is just ending aborts the driver itself in Ray 2.60."""

    def run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        return function(*arguments)


class _Keeping:
    """A process that keeps what it made."""

    def __init__(self, make: Callable[..., Any], arguments: tuple[Any, ...]):
        self.failed: MantaError | None = None
        try:
            self.made = make(*arguments)
        except MantaError as error:  # an actor that does not start would hide its type
            self.failed = error

    def ask(self, method: str) -> Any:
        if self.failed is not None:
            raise self.failed
        return getattr(self.made, method)()

    def node(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())


def run(calls: Sequence[Call], what: str) -> list[Any]:
    """Run each call in a fresh process and return the results in order; as many at a time as the cluster has room for.

    The processes end with their calls; a call whose process dies is tried once more. Raises the MantaError that a call
    raised, or StageFailed with the reason (`what` names the work). An interruption ends the processes.
    """
    import ray

    processes = [_start(_Process, call) for call in calls]
    results = [
        process.run.remote(call.function, call.arguments) for process, call in zip(processes, calls, strict=True)
    ]
    running = dict(zip(results, processes, strict=True))
    try:
        with _as_ours(what):
            while running:
                [done], _ = ray.wait(list(running), num_returns=1)
                ray.get(done)  # raises what the call raised, while the others still run
                ray.kill(running.pop(done))  # makes room for a call that waits
            return list(ray.get(results))
    finally:
        for process in running.values():
            ray.kill(process)


@contextlib.contextmanager
def kept(calls: Sequence[Call], what: str) -> Iterator[list[Callable[[str], Any]]]:
    """A process for each call in which `function(*arguments)` makes an object that stays; yields, for each, what calls a
    method of it by name and waits for the answer.

    They take turns, one asked at a time, so they share the CPUs of the first (all calls name the same number) and its
    machine: what they are compared by is the same for all. Errors are those of `run`; the processes end with the block.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    first, *others = calls
    whole = Call(first.function, first.arguments, first.cpus, sum(call.memory for call in calls), first.environment)
    processes = [_start(_Keeping, whole, whole.function, whole.arguments)]
    try:
        with _as_ours(what):
            beside = NodeAffinitySchedulingStrategy(ray.get(processes[0].node.remote()), soft=False)
            for call in others:
                placed = {"num_cpus": 0, "memory": None, "scheduling_strategy": beside}
                processes.append(_start(_Keeping, call, call.function, call.arguments, **placed))
            ray.get([process.node.remote() for process in processes])
            yield [_asked(process) for process in processes]
    finally:
        for process in processes:
            ray.kill(process)


def _asked(process: Any) -> Callable[[str], Any]:
    import ray

    return lambda method: ray.get(process.ask.remote(method))


@contextlib.contextmanager
def _as_ours(what: str) -> Iterator[None]:
    """Ray's errors as those of Manta; `what` names the work."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MantaError):
            raise error.cause from None
        raise StageFailed(f"{what} failed: {type(error.cause).__name__}: {error.cause}") from error
    except ray.exceptions.OutOfMemoryError as error:
        raise StageFailed(f"{what} ran out of memory and was ended: free some, or use a machine with more") from error
    except ray.exceptions.RayError as error:
        raise StageFailed(f"{what} failed, its process died: {error}") from error


def _start(process: type, call: Call, *given: Any, **placed: Any) -> Any:
    import ray

    # Threads that wait by spinning take the core from whoever has work: three times the CPU time on a busy machine.
    environment = {"OMP_NUM_THREADS": str(call.cpus), "OMP_WAIT_POLICY": "PASSIVE", **call.environment}
    # Nodes that share out less memory than a call wants must still take it, alone: asking for more than any has would
    # wait for ever.
    largest = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    options = {
        "num_cpus": call.cpus,
        "num_gpus": call.gpus,
        "memory": min(call.memory, int(largest)) or None,
        # An environment of its own: Ray starts a process for it, and never hands it one that has imported other engines.
        "runtime_env": {"env_vars": environment},
        # Not into the room that Ray Tune gave the trial which asks: that holds the trial's own idle process alone.
        "scheduling_strategy": "DEFAULT",
        "max_restarts": 1,
        "max_task_retries": 1,
    }
    return ray.remote(**options | placed)(process).remote(*given)
