"""CPU seconds and memory of a stretch of work in this process, told apart from what imports took before it."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def counted() -> Iterator[dict[str, float]]:
    """Yield a dict that has, after the block, `working_cpu_s` (all threads) and `memory_bytes` (peak beyond the start)."""
    figures: dict[str, float] = {}
    begun, held = _cpu_s(), _status("VmRSS")
    yield figures
    figures["working_cpu_s"] = _cpu_s() - begun
    figures["memory_bytes"] = _status("VmHWM") - held


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
