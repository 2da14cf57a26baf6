"""Whether a new version may take over: its errors and times beside those of the old one, as bounds and not as bare means.

Both versions get requests by lot over the same time, so what differs between them is the version. It is looked at
only now and then, when the new one has answered twice as many as at the look before, and each look spends a part of the error
that all may make together: looking often does not make chance look like a finding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist, median
from typing import Any

from serving.canary.arms import CANARY, STABLE, TIMES, Arm

FIRST_LOOK = 10  # requests; a version that fails at most of them is sent back then
LEAST = 20  # times of each version that are compared at all, and requests of the old one
WORSE, GOOD, OPEN = "worse", "good", "open"
UNITS = {"errors": "errors", "ttft": "time to first token", "tpot": "time per token", "latency": "time of an answer"}


@dataclass(frozen=True)
class Figure:
    """One comparison. Of errors `stable` and `canary` are rates and `change` is their difference; of times they are
    medians in seconds, and `change` is how many times as long the canary takes."""

    name: str
    stable: float
    canary: float
    change: float
    low: float  # the change is above it, as sure as a version must be worse to be sent back
    high: float  # and below it, as sure as one must be as good to take over
    limit: float

    @property
    def verdict(self) -> str:
        return WORSE if self.low > self.limit else GOOD if self.high <= self.limit else OPEN

    def __str__(self) -> str:
        if self.name == "errors":
            told = f"{100 * self.canary:.1f}% instead of {100 * self.stable:.1f}% ({100 * self.low:+.1f} to {100 * self.high:+.1f} points, allowed {100 * self.limit:+.1f})"
        else:
            told = f"{self.change:.2f} times ({self.low:.2f} to {self.high:.2f}, allowed {self.limit:.2f})"
        return f"{UNITS[self.name]} {told}"


@dataclass(frozen=True)
class Limits:
    """What a new version may be worse by: see the recipe's `serve.canary`. A limit of none: not compared."""

    requests: int
    errors: float
    times: Mapping[str, float | None]
    confidence: float


class Judge:
    """Follows the comparison of one of `models` models that change together. `verdict` is that of now."""

    def __init__(self, limits: Limits, models: int = 1):
        self.limits = limits
        self.verdict = OPEN
        self.figures: list[Figure] = []  # of the last look
        self.looks = 0
        self._passes = 0  # looks at which it could have passed
        self._tests = models * (1 + sum(limit is not None for limit in limits.times.values()))
        self._due = limits.requests
        while self._due >= 2 * FIRST_LOOK:
            self._due = math.ceil(self._due / 2)

    def enough(self, stable: Arm, canary: Arm) -> bool:
        """Whether enough was seen for the new version to take over."""
        return canary.requests >= self.limits.requests and stable.requests >= LEAST

    def look(self, arms: Mapping[str, Arm], last: bool = False) -> str:
        """The verdict, from all that was counted until now; worked out anew where a look is due, or it is the `last`.

        What was found good stays so unless it is found worse.
        """
        stable, canary = arms[STABLE], arms[CANARY]
        if canary.requests < self._due and not last:
            return self.verdict
        enough = self.enough(stable, canary)
        while self._due <= canary.requests:  # at `requests` itself, however few there were at the first
            self._due = self.limits.requests if self._due < self.limits.requests < 2 * self._due else 2 * self._due
        self.looks += 1
        self._passes += enough
        error = 1 - self.limits.confidence
        harm = _z(_spent(error, self.looks) / self._tests)  # any of the tests would send it back
        passing = _z(_spent(error, max(1, self._passes)))  # it takes over only where all of them pass
        self.figures = [compare_errors(stable, canary, harm, passing, self.limits.errors)]
        for name, limit in self.limits.times.items():
            if limit is not None and min(len(stable.times[name]), len(canary.times[name])) >= LEAST:
                self.figures.append(compare_times(name, stable.times[name], canary.times[name], harm, passing, limit))
        found = {figure.verdict for figure in self.figures}
        if WORSE in found:
            self.verdict = WORSE
        elif enough and found == {GOOD}:
            self.verdict = GOOD
        return self.verdict

    def told(self, arms: Mapping[str, Arm]) -> dict[str, Any]:
        """Where the comparison stands, as JSON has it."""
        return {
            "verdict": self.verdict,
            "looks": self.looks,
            **{name: _told(arm) for name, arm in arms.items()},
            "figures": [{**_finite(asdict(one)), "verdict": one.verdict, "text": str(one)} for one in self.figures],
        }


def compare_errors(stable: Arm, canary: Arm, harm: float, passing: float, limit: float) -> Figure:
    """The difference of two rates, by Newcombe's bounds from Wilson's (Statistics in Medicine 17, 1998, method 10).

    `harm` and `passing` are the quantiles of the normal distribution of the lower and the upper bound.
    """
    before, after = _rate(stable), _rate(canary)
    low_after, _ = wilson(canary.errors, canary.requests, harm)
    _, high_before = wilson(stable.errors, stable.requests, harm)
    low = after - before - math.hypot(after - low_after, high_before - before)
    _, high_after = wilson(canary.errors, canary.requests, passing)
    low_before, _ = wilson(stable.errors, stable.requests, passing)
    high = after - before + math.hypot(high_after - after, before - low_before)
    return Figure("errors", before, after, after - before, low, high, limit)


def wilson(errors: int, requests: int, z: float) -> tuple[float, float]:
    """Bounds of a rate (Wilson 1927); all is possible where nothing was seen."""
    if not requests:
        return 0.0, 1.0
    rate, square = errors / requests, z * z / requests
    middle, half = rate + square / 2, z * math.sqrt(rate * (1 - rate) / requests + square / (4 * requests))
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))


def compare_times(
    name: str, stable: list[float], canary: list[float], harm: float, passing: float, limit: float
) -> Figure:
    """How many times as long the canary takes: the Hodges-Lehmann estimate of a shift of the logarithms, with bounds from
    the distribution of Mann and Whitney's statistic. It asks nothing of how times are distributed, and a few extreme ones
    do not sway it.
    """
    import numpy as np

    logs = [np.log(np.maximum(np.asarray(times), 1e-6)) for times in (canary, stable)]
    ratios = np.sort(np.subtract.outer(*logs), axis=None)
    pairs = len(ratios)
    spread = math.sqrt(pairs * (len(stable) + len(canary) + 1) / 12)
    low, high = math.floor(pairs / 2 - harm * spread), math.ceil(pairs / 2 + passing * spread)
    return Figure(
        name,
        median(stable),
        median(canary),
        float(np.exp(np.median(ratios))),
        float(np.exp(ratios[low])) if low >= 0 else 0.0,
        float(np.exp(ratios[high])) if high < pairs else math.inf,
        limit,
    )


def _spent(error: float, look: int) -> float:
    """The part of the error that look number 1, 2, ... may make: 1/2, 1/6, 1/12 ... of it, which is all of it in the end."""
    return error / (look * (look + 1))


def _z(error: float) -> float:
    return NormalDist().inv_cdf(1 - error)


def _rate(arm: Arm) -> float:
    return arm.errors / arm.requests if arm.requests else 0.0


def _told(arm: Arm) -> dict[str, Any]:
    medians = {name: round(median(arm.times[name]), 6) for name in TIMES if arm.times[name]}
    return {"requests": arm.requests, "errors": arm.errors, "median_seconds": medians}


def _finite(plain: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity."""
    return {name: None if value == math.inf else value for name, value in plain.items()}
