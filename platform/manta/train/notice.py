"""Notice that a node of this worker group is about to go: a spot instance that is reclaimed, a node that is drained."""

from __future__ import annotations


def leaving() -> bool:
    """Whether Ray has marked a node of the group as draining, as far as this rank was told. Asks nobody.

    A node is drained by its autoscaler, by the notice of a cloud, or because `ray start --block` got SIGTERM there
    (from Kubernetes, for one). Ray Train's watcher tells the ranks within RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S; the
    public `ray.train.get_preemption_info` gives the same, but makes all ranks wait for each other at an actor.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None
