"""One model of which a Front has two versions answer: which of them a request gets, and how each does."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.canary.arms import CANARY, STABLE, Arm
from serving.canary.watch import Watch
from serving.door.meters import FIRST_TOKEN_SECONDS, PER_TOKEN_SECONDS, WHOLE_SECONDS
from serving.engines.vllm import usage
from serving.fleet.team import Team
from serving.launch import Served

PATIENCE_SECONDS = 0.25  # a request waits so long for a replica of the new version; then the old one has it
NEARLY = 0.9  # of the time that a request may take: its clock began before it came here
LEASE_SECONDS = 60.0  # if nobody has asked for the counts for so long, nobody will decide: all goes to the old version

BY = ("model", "version", "fingerprint")


class Meters:
    """Prometheus' metrics of the versions that are compared. Each request counts where it was drawn to first."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.share = Gauge("manta_canary_share", "of the requests that the canary gets", ("model",), registry=registry)
        self.requests = Counter(
            "manta_version_requests", "answered requests by version", (*BY, "outcome"), registry=registry
        )
        first, each, whole = (
            "seconds to a stream's first token",
            "seconds between its tokens",
            "seconds of other answers",
        )
        self.times = {
            "ttft": Histogram("manta_version_time_to_first_token_seconds", first, BY, buckets=FIRST_TOKEN_SECONDS, registry=registry),
            "tpot": Histogram("manta_version_time_per_token_seconds", each, BY, buckets=PER_TOKEN_SECONDS, registry=registry),
            "latency": Histogram("manta_version_request_seconds", whole, BY, buckets=WHOLE_SECONDS, registry=registry),
        }  # fmt: skip

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Trial:
    """The two versions of one model. `team`: the replicas of the new one."""

    def __init__(
        self,
        versions: Mapping[str, Served],
        team: Team,
        share: float,
        longest: float,
        meters: Meters,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ):
        """`versions`: STABLE and CANARY -> what answers. `longest`: seconds that a request may take."""
        self.team = team
        self.arms = {STABLE: Arm(), CANARY: Arm()}
        self._versions = versions
        self._share = share
        self._longest = longest
        self._meters = meters
        self._clock = clock
        self._draw = draw
        self._asked = clock()
        self.met = False  # a replica of the new version was found: before, this Front may just not know of them
        meters.share.labels(versions[STABLE].name).set(share)

    def compares(self, model: str) -> bool:
        """Whether requests for this name are part of it: both versions must have it, and somebody be waiting for the counts."""
        waited_for = self._clock() - self._asked < LEASE_SECONDS
        return self._share > 0 and waited_for and model in self._versions[CANARY].names

    def draws(self) -> bool:
        """Whether the new version gets this request. Drawn anew for each: any rule by what a request is or whose would
        have the two versions answer different requests, and would not keep the share where few clients ask much."""
        return self._draw() < self._share

    def count(self, version: str, watch: Watch, state: Mapping[str, Any], left: bool) -> None:
        """How a version did. Requests that were wrong in themselves tell nothing, nor do those whose client has `left`, unless it was
        sent away because the answer took too long."""
        if watch.refused or (left and not watch.ended and watch.seconds < NEARLY * self._longest):
            return
        times = {} if watch.failed else watch.times(sum((usage(state) or (0, 0))[1:]))
        self._add(version, watch.failed, times)

    def fail(self) -> None:
        """The new version failed before anything was sent."""
        self._add(CANARY, True, {})

    def tell(self) -> dict[str, Any]:
        """What was counted, by version; whoever asks is going to decide."""
        self._asked = self._clock()
        return {name: arm.plain() for name, arm in self.arms.items()}

    def _add(self, version: str, failed: bool, times: Mapping[str, float]) -> None:
        self.arms[version].add(failed, times)
        served = self._versions[version]
        by = (served.name, version, served.fingerprint[:16])
        self._meters.requests.labels(*by, "error" if failed else "ok").inc()
        for name, seconds in times.items():
            self._meters.times[name].labels(*by).observe(seconds)
