"""Work that gets a process of its own on the cluster: engines that never give memory back, or that must start afresh."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


def run(calls: Sequence[Call], what: str) -> list[Any]:
    """Run each call in a fresh process and return the results in order; as many at a time as the cluster has room for.

    The processes end with their calls; a call whose process dies is tried once more. Raises the MantaError that a call
    raised, or StageFailed with the reason (`what` names the work). An interruption ends the processes.
    """
    import ray

    processes = [_start(call) for call in calls]
    results = [
        process.run.remote(call.function, call.arguments) for process, call in zip(processes, calls, strict=True)
    ]
    running = dict(zip(results, processes, strict=True))
    try:
        while running:
            [done], _ = ray.wait(list(running), num_returns=1)
            ray.get(done)  # raises what the call raised, while the others still run
            ray.kill(running.pop(done))  # makes room for a call that waits
        return list(ray.get(results))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MantaError):
            raise error.cause from None
        raise StageFailed(f"{what} failed: {type(error.cause).__name__}: {error.cause}") from error
    except ray.exceptions.OutOfMemoryError as error:
        raise StageFailed(f"{what} ran out of memory and was ended: free some, or use a machine with more") from error
    except ray.exceptions.RayError as error:
        raise StageFailed(f"{what} failed, its process died: {error}") from error
    finally:
        for process in running.values():
            ray.kill(process)


def _start(call: Call) -> Any:
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
    return ray.remote(**options)(_Process).remote()
