"""Which replica takes a request: policies for Ray Serve's router, which knows the replicas and waits where there is none.

A Front asks `handle.choose_replica(Wish(...), _reserve=False)`: Serve's way for those who carry a request themselves. It
costs no call to the replica, so the policies go by what this Front has on its way to each, as load balancers do.

Serve pickles this module by value: what others share with it lives elsewhere (wish.py).
"""

from __future__ import annotations

import random
import time
from typing import Any

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from serving.fleet.wish import Wish

FAIR_SHARE = 1.25  # a replica has at most this much of the mean load before another takes what would be its own


def _wish(pending_request: PendingRequest | None) -> Wish | None:
    """The wish of a request; None for calls that Serve itself carries, which any replica may take."""
    if pending_request is None:
        return None
    pending_request.routing_context.should_backoff = True  # where no replica will do, look again a little later
    asked = pending_request.args[0] if pending_request.args else None
    return asked if isinstance(asked, Wish) else None


class ByWish:
    """A router that leaves out what failed, and has `pick` choose among the rest."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        wish = _wish(pending_request)
        if wish is None:
            return [candidate_replicas]
        moment = time.monotonic()
        good = {one.replica_id.unique_id: one for one in candidate_replicas}
        good = {name: one for name, one in good.items() if wish.lost.get(name, 0.0) <= moment}
        return [[good[self.pick(list(good), wish)]]] if good else []

    def pick(self, names: list[str], wish: Wish) -> str:
        """One of these replicas, of which there is at least one."""
        raise NotImplementedError


class LeastBusy(ByWish, RequestRouter):
    """The replica with the fewest requests; any of those that have equally few."""

    def pick(self, names: list[str], wish: Wish) -> str:
        random.shuffle(names)
        return min(names, key=lambda name: wish.busy.get(name, 0))


class PrefixAffinity(ByWish, ConsistentHashRouter):
    """Prompts that begin alike go to the replica whose cache holds that beginning: consistent hashing with bounded
    loads (arXiv 1608.01350). One that has over FAIR_SHARE of the mean load hands them on to the next of the ring.
    """

    def initialize_state(self, **kwargs: Any) -> None:
        super().initialize_state(num_fallback_replicas=1_000_000, **kwargs)  # the ring's order of all replicas

    def pick(self, names: list[str], wish: Wish) -> str:
        most = FAIR_SHARE * (1 + sum(wish.busy.get(name, 0) for name in names)) / len(names)
        ranked = [one.unique_id for one in self._lookup_ranked_replicas(wish.prefix.decode("latin-1"))]
        light = [name for name in ranked if name in names and wish.busy.get(name, 0) + 1 <= max(1.0, most)]
        return light[0] if light else min(names, key=lambda name: wish.busy.get(name, 0))


# What `serve.routing` may say.
ROUTERS = {"least-busy": "serving.fleet.routing.LeastBusy", "prefix": "serving.fleet.routing.PrefixAffinity"}
