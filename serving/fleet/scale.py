"""How many replicas a model gets: the policy that Ray Serve's controller asks, and its settings.

Serve pickles this module by value into its controller, which may know nothing of Manta: it imports nothing of it.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

REPORT_SECONDS = 1.0  # how often a replica tells its load
LOOK_BACK_SECONDS = 5.0  # what it told in that time is averaged
CALM = 0.5  # of the target: only a time to the first token below this lets replicas go


@dataclass(frozen=True)
class Scale:
    """What one replica shall have to do, and how long more or less of it must last before their number follows."""

    target_requests: float
    target_tokens: float | None
    target_ttft_ms: float | None
    up_seconds: float
    down_seconds: float


class Policy:
    """As many replicas as bring requests and tokens of each to their targets; one more where first tokens come too late.

    Serve asks ten times a second, holds the answer against min and max, and follows it once it has lasted.
    """

    def __init__(self, target_requests: float, target_tokens: float | None, target_ttft_ms: float | None):
        self.target_requests = target_requests
        self.target_tokens = target_tokens
        self.target_ttft_ms = target_ttft_ms

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        now = context.current_num_replicas
        figures = context.aggregated_metrics or {}
        if not figures.get("requests"):  # no replica has told anything yet
            return context.target_num_replicas, {}
        wanted = sum(figures["requests"].values()) / self.target_requests
        if self.target_tokens is not None:
            wanted = max(wanted, sum(figures["tokens"].values()) / self.target_tokens)
        if self.target_ttft_ms is not None:
            waits = [value for value in figures["ttft_ms"].values() if value > 0]
            ttft = sum(waits) / len(waits) if waits else 0.0
            if ttft > self.target_ttft_ms:
                wanted = max(wanted, now + 1)
            elif ttft > CALM * self.target_ttft_ms:
                wanted = max(wanted, now)
        return wanted, {}


def options(least: int, most: int, scale: Scale) -> dict[str, Any]:
    """The options of a Serve deployment of `least` to `most` replicas."""
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    if least == most:
        return {"num_replicas": least}
    targets = {name: value for name, value in asdict(scale).items() if name.startswith("target")}
    with warnings.catch_warnings():
        # Serve calls the interval deprecated, and does not read what it names instead.
        warnings.simplefilter("ignore", DeprecationWarning)
        config = AutoscalingConfig(
            min_replicas=least,
            max_replicas=most,
            # Where it may have none, it still has to show at the start that it works.
            initial_replicas=None if least else 1,
            metrics_interval_s=REPORT_SECONDS,
            look_back_period_s=LOOK_BACK_SECONDS,
            upscale_delay_s=scale.up_seconds,
            downscale_delay_s=scale.down_seconds,
            policy=AutoscalingPolicy(policy_function="serving.fleet.scale.Policy", policy_kwargs=targets),
        )
    return {"autoscaling_config": config}
