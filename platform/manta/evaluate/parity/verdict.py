"""How close is close enough, and what a comparison says in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manta.sections.outcome import Gate

# Largest difference of a log-probability in nats that arithmetic alone explains. float32 keeps 24 bits: logits of about
# 20 are off by some 1e-5 after a deep model's sums, done in another order. bfloat16 keeps 8 bits, so the same logits
# are off by up to 0.06 each time they are rounded. Wrong templates, weights or positions cost whole nats.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}

Report = Mapping[str, Any]


def tolerance(gate: Gate, *dtypes: str) -> float:
    """What the gate allows, or what the least precise of `dtypes` explains."""
    if gate.parity is not None:
        return gate.parity
    return max(TOLERANCE.get(dtype, TOLERANCE["bfloat16"]) for dtype in dtypes)


def figures(report: Report) -> dict[str, Any]:
    """What scores.json and the manifest hold of a comparison."""
    found: dict[str, Any] = {"parity": not missed(report), "parity_probes": len(report["probes"])}
    for pair in report["tolerance"]:
        distances = [probe["distance"][pair] for probe in report["probes"] if pair in probe["distance"]]
        if distances:
            found[f"parity_{pair}"] = max(each["max"] for each in distances)
    return found


def missed(report: Report) -> list[str]:
    """What a comparison refuses, one sentence each; empty where all sides agree."""
    found = [f"parity: {check['said']}" for check in report["checks"] if check["ok"] is False]
    for reader in ("transformers", "vllm"):
        found += _ids(reader, report["probes"])
    for pair, allowed in report["tolerance"].items():
        found += _distances(pair, allowed, report["probes"])
    return found


def _ids(reader: str, probes: Sequence[Report]) -> list[str]:
    apart = [probe for probe in probes if reader in probe["differences"]]
    if not apart:
        return []
    first, where = apart[0], apart[0]["differences"][reader]
    begin = f"parity: {reader} reads {len(apart)} of {len(probes)} probes otherwise than the trainer"
    if "refused" in where:
        return [f"{begin}: it refuses {first['name']!r}: {where['refused']}"]
    return [
        f"{begin}: in {first['name']!r} after {where['before']!r} the trainer reads {where['trainer']['text']!r} "
        f"{where['trainer']['ids']}, {reader} {where['other']['text']!r} {where['other']['ids']}"
    ]


def _distances(pair: str, allowed: float, probes: Sequence[Report]) -> list[str]:
    far = [p for p in probes if pair in p["distance"] and not p["distance"][pair]["max"] <= allowed]
    if not far:
        return []
    worst = max(far, key=lambda probe: float(probe["distance"][pair]["max"]))
    one, _, other = pair.partition("_")
    return [
        f"parity: {one} and {other} disagree on {len(far)} of {len(probes)} probes: log-probabilities of {worst['name']!r} differ by up to "
        f"{worst['distance'][pair]['max']:.3g} nats, gate.parity allows {allowed:g}"
    ]
