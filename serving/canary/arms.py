"""What is counted of one version of a model while two are compared."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

STABLE, CANARY = "stable", "canary"  # the version of until now, and the new one: the field's words
TIMES = ("ttft", "tpot", "latency")  # seconds: to a stream's first token, per token after it, of an answer in one piece
MOST = 1000  # times kept of each kind: a fair sample of all there were


@dataclass
class Arm:
    """Answers of one version, and a sample of how long they took."""

    requests: int = 0  # answered, or failed
    errors: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TIMES, 0))  # of times, kept or not
    times: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in TIMES})

    def add(self, failed: bool, times: Mapping[str, float]) -> None:
        """One more request. Which of many times are kept is drawn at random: each with the same probability
        (Vitter's algorithm R)."""
        self.requests += 1
        self.errors += failed
        for name, seconds in times.items():
            self.counts[name] += 1
            kept = self.times[name]
            if len(kept) < MOST:
                kept.append(seconds)
            elif (place := random.randrange(self.counts[name])) < MOST:
                kept[place] = seconds

    def plain(self) -> dict[str, Any]:
        return {"requests": self.requests, "errors": self.errors, "counts": self.counts, "times": self.times}


def merged(told: Iterable[Mapping[str, Any]]) -> Arm:
    """What several Fronts counted of one version. Where one had far more than MOST times, its sample weighs too little."""
    whole = Arm()
    for one in told:
        whole.requests += one["requests"]
        whole.errors += one["errors"]
        for name in TIMES:
            whole.counts[name] += one["counts"][name]
            whole.times[name] += one["times"][name]
    return whole
