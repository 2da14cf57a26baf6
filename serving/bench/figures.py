"""From samples to figures: percentiles of each delay, throughput, goodput, errors by kind, and whether the client kept up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from serving.bench.client import Sample
from serving.bench.load import Course
from serving.bench.options import Options

PERCENTILES = (50, 90, 95, 99)
LATE_MS = 20.0  # an event loop this late at its 99th percentile measures itself rather than the endpoint
BUSY_CPU = 0.9  # as does a client that uses this share of its one core
DELAYS = {
    "ttft_ms": "time to first token",
    "tpot_ms": "time per output token",
    "itl_ms": "between pieces",
    "e2e_ms": "whole answer",
}


def percentile(values: Sequence[float], share: float) -> float:
    """The `share`-th percentile, interpolated linearly between the two nearest values."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def figures(course: Course, options: Options, model: str, cpu_seconds: float) -> dict[str, Any]:
    """Everything there is to tell of a load, plain enough for JSON. Delays are of answered requests only."""
    good = [sample for sample in course.samples if sample.error is None]
    failed = [sample for sample in course.samples if sample.error is not None]
    seconds = max(course.ended - course.started, 1e-9)
    tokens = sum(sample.new_tokens for sample in good)
    known = [sample.prompt_tokens for sample in good if sample.prompt_tokens is not None]
    lag_ms = 1000 * percentile(course.lags, 99) if course.lags else 0.0
    cpu_share = cpu_seconds / seconds
    delays = {
        "ttft_ms": [sample.ttft for sample in good],
        "tpot_ms": [tpot for sample in good if (tpot := sample.tpot) is not None],
        "itl_ms": [gap for sample in good for gap in sample.gaps],
        "e2e_ms": [sample.ended - sample.due for sample in good],
    }
    return {
        "url": options.base,
        "model": model,
        "loop": "open" if options.rate is not None else "closed",
        "rate": options.rate,
        "concurrency": options.concurrency,
        "seed": options.seed,
        "requests": len(course.samples),
        "answered": len(good),
        "errors": dict(Counter(str(sample.error) for sample in failed)),
        "error_messages": {str(sample.error): sample.said for sample in reversed(failed)},
        "seconds": round(seconds, 3),
        "requests_per_s": _round(len(good) / seconds),
        "tokens_per_s": _round(tokens / seconds),
        "new_tokens_mean": _round(tokens / len(good)) if good else None,
        "prompt_tokens_mean": _round(sum(known) / len(known)) if known else None,
        "most_at_once": course.most_at_once,
        **{name: _spread(values) for name, values in delays.items()},
        "goodput": _goodput(good, options, len(course.samples), seconds),
        "client": {
            "loop_lag_p99_ms": _round(lag_ms),
            "cpu_share": _round(cpu_share),
            "limited": lag_ms > LATE_MS or cpu_share > BUSY_CPU,
        },
    }


def _spread(seconds: Sequence[float]) -> dict[str, float] | None:
    """Mean and percentiles in milliseconds; None of nothing."""
    if not seconds:
        return None
    spread = {f"p{share}": _round(1000 * percentile(seconds, share)) for share in PERCENTILES}
    return {"mean": _round(1000 * sum(seconds) / len(seconds)), **spread}


def _goodput(good: Sequence[Sample], options: Options, asked: int, seconds: float) -> dict[str, Any] | None:
    """Requests that met every target that was named, of all that were asked. None without targets.

    An answer of one token has no time per token, and meets any target for it (DistServe, arXiv 2401.09670).
    """
    if options.ttft_ms is None and options.tpot_ms is None:
        return None
    met = [sample for sample in good if _meets(sample, options)]
    targets = {name: getattr(options, name) for name in ("ttft_ms", "tpot_ms") if getattr(options, name) is not None}
    return {"targets": targets, "share": _round(len(met) / asked), "requests_per_s": _round(len(met) / seconds)}


def _meets(sample: Sample, options: Options) -> bool:
    in_time = options.ttft_ms is None or 1000 * sample.ttft <= options.ttft_ms
    return in_time and (options.tpot_ms is None or sample.tpot is None or 1000 * sample.tpot <= options.tpot_ms)


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def text(found: dict[str, Any]) -> str:
    """The figures as a person reads them."""
    arrival = (
        f"open loop, {found['rate']:g} requests/s" if found["loop"] == "open" else f"{found['concurrency']} clients"
    )
    lines = [
        f"{found['model']} at {found['url']}: {arrival}, seed {found['seed']}",
        f"  answered   {found['answered']} of {found['requests']} in {found['seconds']:.1f} s, at most {found['most_at_once']} at once",
    ]
    lines += [f"  failed     {count} x {kind}{_said(found, kind)}" for kind, count in found["errors"].items()]
    if found["answered"]:
        tokens = f"{found['new_tokens_mean']:g} new tokens an answer"
        if found["prompt_tokens_mean"] is not None:
            tokens = f"{found['prompt_tokens_mean']:g} prompt and {tokens}"
        lines.append(
            f"  throughput {found['requests_per_s']:g} requests/s, {found['tokens_per_s']:g} tokens/s; {tokens}"
        )
        lines.append("\n  " + "ms".ljust(24) + "".join(name.rjust(10) for name in ("mean", "p50", "p90", "p95", "p99")))
        for name, label in DELAYS.items():
            if (spread := found[name]) is not None:
                lines.append("  " + label.ljust(24) + "".join(f"{value:10.1f}" for value in spread.values()))
    if (goodput := found["goodput"]) is not None:
        targets = ", ".join(f"{name.removesuffix('_ms')} <= {value:g} ms" for name, value in goodput["targets"].items())
        lines.append(f"\n  goodput    {goodput['requests_per_s']:g} requests/s ({goodput['share']:.1%} with {targets})")
    client = found["client"]
    if client["limited"]:
        lines.append(
            f"\n  This client was itself late: its event loop by {client['loop_lag_p99_ms']:g} ms (p99), and it used {client['cpu_share']:.0%} of a core. "
            "The delays are partly its own: run it on an idle machine, not the endpoint's, or ask less at once."
        )
    return "\n".join(lines)


def _said(found: dict[str, Any], kind: str) -> str:
    said = found["error_messages"].get(kind)
    return f" ({said})" if said else ""
