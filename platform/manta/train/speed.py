"""How fast training is and what it holds: tokens a second, the share of the hardware's peak, memory."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

from manta import hardware

MEASURED_SIZE = 1024  # of the square matrices whose product says what a CPU can do


def gpu_peak(name: str, precision: str) -> float | None:
    """Peak operations a second of one GPU by the name its driver gives; None where it is not known, never a guess."""
    found = hardware.of_driver(name)
    return None if found is None else found.peak(precision)


def cpu_peak(precision: str, seconds: float = 0.3) -> float:
    """What this process's threads reach on the best of many square matrix products, in operations a second."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.full((MEASURED_SIZE, MEASURED_SIZE), value, dtype=dtype) for value in (0.5, 0.25))
    torch.mm(a, b)  # the first one allocates
    best, ends = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < ends:
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)
    return 2.0 * MEASURED_SIZE**3 / best


def peak(precision: str) -> float | None:
    """Peak operations a second of this worker's device: a GPU's by its datasheet, a CPU's by measurement."""
    import torch

    if torch.cuda.is_available():
        return gpu_peak(torch.cuda.get_device_name(), precision)
    return cpu_peak(precision)


def mfu(tokens_per_s: float, flops_per_token: float, peak: float | None, workers: int) -> float | None:
    """Model FLOPs utilisation (PaLM, arXiv:2204.02311, appendix B): operations the model needs over those possible.

    `tokens_per_s` is that of all workers, `peak` that of one. Recomputed activations do not count.
    """
    return None if peak is None else tokens_per_s * flops_per_token / (peak * workers)


class Pace:
    """Tokens a second over the last steps."""

    def __init__(self, window: int = 20):
        self._steps: deque[tuple[int, float]] = deque(maxlen=window)

    def add(self, tokens: int, seconds: float) -> float:
        """Count a step and return the pace over the window: all its tokens over all its seconds."""
        self._steps.append((tokens, seconds))
        return sum(tokens for tokens, _ in self._steps) / sum(seconds for _, seconds in self._steps)


def memory() -> dict[str, int]:
    """What this process holds, in bytes, now and at most so far.

    rss counts pages shared with other processes whole, pss by share: the sum of pss over workers is what they hold
    together. With a GPU also what torch's tensors hold there, and what torch has reserved for them.
    """
    found = _kilobytes(Path("/proc/self/status"), {"VmRSS": "rss", "VmHWM": "rss_peak"})
    found |= _kilobytes(Path("/proc/self/smaps_rollup"), {"Pss": "pss"})
    import torch

    if torch.cuda.is_available():
        found |= {
            "gpu": torch.cuda.memory_allocated(),
            "gpu_peak": torch.cuda.max_memory_allocated(),
            "gpu_reserved_peak": torch.cuda.max_memory_reserved(),
        }
    return found


def _kilobytes(path: Path, wanted: dict[str, str]) -> dict[str, int]:
    """Lines `Name:  123 kB` of a file of /proc as {wanted name: bytes}; nothing where the system has no such file."""
    if not path.exists():
        return {}
    lines = (line.split() for line in path.read_text().splitlines())
    return {wanted[key]: int(parts[1]) * 1024 for parts in lines if parts and (key := parts[0].rstrip(":")) in wanted}


def process_seconds() -> float:
    """Seconds since this process was created."""
    import psutil

    return time.time() - float(psutil.Process().create_time())
