"""Manta's Prometheus metrics of one replica, by model and key, beside those of its engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.door.access import Asked

BY = ("model", "key")
FIRST_TOKEN_SECONDS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 2, 5, 10, 30)
PER_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
WHOLE_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Meters:
    """Counts finished requests. Labels hold only names the endpoint knows: no client can make up new ones."""

    def __init__(self, load: Mapping[str, Callable[[], tuple[float, float]]]):
        """`load`: model -> its requests that are at work now, and those that wait."""
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter("manta_requests", "requests answered", (*BY, "path", "status"), registry=registry)
        self._errors = Counter(
            "manta_errors",
            "requests that the endpoint failed: code as clients see it",
            (*BY, "code"),
            registry=registry,
        )
        self._rejected = Counter(
            "manta_rejected", "requests refused before the engine", (*BY, "reason"), registry=registry
        )
        self._prompt = Counter("manta_prompt_tokens", "tokens of prompts", BY, registry=registry)
        self._completion = Counter("manta_completion_tokens", "tokens of answers", BY, registry=registry)
        first, each, whole = "seconds to a stream's first token", "seconds between its tokens", "seconds of an answer"
        self._first = Histogram(
            "manta_time_to_first_token_seconds", first, BY, buckets=FIRST_TOKEN_SECONDS, registry=registry
        )
        self._each = Histogram("manta_time_per_token_seconds", each, BY, buckets=PER_TOKEN_SECONDS, registry=registry)
        self._whole = Histogram("manta_request_seconds", whole, BY, buckets=WHOLE_SECONDS, registry=registry)
        working = Gauge("manta_requests_working", "requests at work in the engine", ("model",), registry=registry)
        waiting = Gauge("manta_requests_waiting", "requests waiting for the engine", ("model",), registry=registry)
        for model, now in load.items():
            working.labels(model).set_function(lambda now=now: now()[0])  # type: ignore[misc] # bound here, not later
            waiting.labels(model).set_function(lambda now=now: now()[1])  # type: ignore[misc]

    def count(self, asked: Asked) -> None:
        """Add one finished request."""
        by = (asked.model, asked.key)
        self._requests.labels(*by, asked.path, str(asked.status)).inc()
        if asked.reason is not None:
            (self._errors if asked.reached_engine else self._rejected).labels(*by, asked.reason).inc()
        if not asked.reached_engine:
            return
        self._prompt.labels(*by).inc(asked.prompt_tokens)
        self._completion.labels(*by).inc(asked.completion_tokens)
        if asked.reason is None:
            self._whole.labels(*by).observe(asked.seconds)
        if asked.streamed and asked.first is not None and asked.last is not None:
            self._first.labels(*by).observe(asked.first - asked.started)
            if asked.completion_tokens > 1:
                self._each.labels(*by).observe((asked.last - asked.first) / (asked.completion_tokens - 1))

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)

    def names(self) -> set[str]:
        """The names under which a query finds them."""
        return names(self.registry)


def names(registry: CollectorRegistry) -> set[str]:
    """The names under which a query finds the metrics of a registry."""
    found = set()
    for metric in registry.collect():
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric.type, [""])
        found |= {metric.name + end for end in ends}
    return found
