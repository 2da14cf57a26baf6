"""What all plans are made of: the figures, the assumptions they share, and how they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GIB = 2**30
WORKER_BYTES = int(0.9 * GIB)  # a worker process with torch, DeepSpeed and Ray, before it holds a model: measured
RAY_BYTES = int(1.5 * GIB)  # a local Ray's own processes, and its object store as the stream uses it
Figures = dict[str, Any]


@dataclass(frozen=True)
class Given:
    """What a plan is to assume beyond the recipe."""

    gpu: str | None = None  # a name of hardware.GPUS: advise on such GPUs
    gpus: int | None = None  # how many of them; none: as many as the recipe's workers have
    price_per_gpu_hour: float | None = None
    mfu: float = 0.4  # share of a GPU's peak that training reaches
    seq_len: int | None = None  # of rows that are not prepared yet
    vocab_size: int | None = None
    measure: bool = False  # try the recipe for a few steps


def text(figures: Figures) -> str:
    """The figures for a person, one a line; those that were measured say so."""
    lines = [f"plan of {figures['kind']} {figures['name']}"]
    measured = figures.get("measured", ())
    for key, value in figures.items():
        if key in ("kind", "name", "notes", "measured"):
            continue
        mark = "  (measured)" if key in measured else ""
        if isinstance(value, dict):
            lines.append(f"  {key.replace('_', ' ')}{mark}")
            lines += [f"    {_name(part):<24} {_show(part, number)}" for part, number in value.items()]
        else:
            lines.append(f"  {_name(key):<20} {_show(key, value)}{mark}")
    return "\n".join([*lines, *(f"  note: {note}" for note in figures["notes"])])


def _name(key: str) -> str:
    """A setting by its path, anything else in words."""
    return key if "." in key else key.removesuffix("_bytes").replace("_", " ")


def _show(key: str, value: Any) -> str:
    if key.endswith("_bytes"):
        return f"{value / GIB:.2f} GiB" if value >= GIB / 10 else f"{value / 2**20:.1f} MiB"
    if key == "flops":
        return f"{value:.3g}"
    if key == "hours":
        return f"{value:.2f}" if value >= 0.1 else f"{value:.3f} ({value * 60:.1f} minutes)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
