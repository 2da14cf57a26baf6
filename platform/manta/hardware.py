"""GPUs that Manta knows: by the name one types and the name their driver gives, memory and peak, from their datasheets.

And of this machine's processor, what it is and whether it multiplies bf16.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from manta.errors import InputError

GB = 10**9


class Gpu(NamedTuple):
    """One model of GPU. All figures are NVIDIA's datasheets', where those that count sparsity are halved."""

    driver: str  # what the driver calls it, whole: another variant of a card has another peak
    memory_bytes: int  # datasheets state gigabytes; taken as 10^9 bytes, the lower reading
    bf16: float  # operations a second of dense matrix products, summed in fp32
    fp32: float  # without TF32, which is torch's default

    def peak(self, precision: str) -> float:
        """Operations a second, for "bf16" or "fp32"."""
        return {"bf16": self.bf16, "fp32": self.fp32}[precision]


GPUS: dict[str, Gpu] = {
    "a100-40": Gpu(r"NVIDIA A100-(SXM4|PCIE|PCI)-?\d*-?40GB", 40 * GB, 312e12, 19.5e12),
    "a100": Gpu(r"NVIDIA A100-(SXM4|PCIE|PCI)-?\d*-?80GB|NVIDIA A100 80GB PCIe", 80 * GB, 312e12, 19.5e12),
    "h100": Gpu(r"NVIDIA H100 80GB HBM3", 80 * GB, 989.4e12, 66.9e12),  # SXM
    "h100-pcie": Gpu(r"NVIDIA H100 PCIe", 80 * GB, 756e12, 51e12),
    "h100-nvl": Gpu(r"NVIDIA H100 NVL", 94 * GB, 835e12, 60e12),
    "h200": Gpu(r"NVIDIA H200", 141 * GB, 989.4e12, 66.9e12),  # SXM
    "h200-nvl": Gpu(r"NVIDIA H200 NVL", 141 * GB, 835e12, 60e12),
    "b200": Gpu(r"NVIDIA B200", 180 * GB, 2250e12, 75e12),  # an eighth of the HGX board with eight
    "l4": Gpu(r"NVIDIA L4", 24 * GB, 121e12, 30.3e12),
    "l40s": Gpu(r"NVIDIA L40S", 48 * GB, 362e12, 91.6e12),
    "rtx4090": Gpu(r"NVIDIA GeForce RTX 4090", 24 * GB, 165.2e12, 82.6e12),
}


def of_driver(name: str) -> Gpu | None:
    """The GPU that its driver calls `name`; None where it is not known, never a guess."""
    return next((gpu for gpu in GPUS.values() if re.fullmatch(gpu.driver, name)), None)


def named(name: str) -> Gpu:
    """The GPU of a name of GPUS. Raises InputError naming those there are."""
    if name not in GPUS:
        raise InputError(f"--gpu {name}: is not known: choose one of {', '.join(GPUS)}")
    return GPUS[name]


def bf16_in_processor() -> bool:
    """Whether this machine's processor multiplies bf16 itself (AVX512-BF16, AMX); otherwise it is emulated."""
    flags = processor().split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def processor() -> str:
    """What Linux tells of this machine's processors, one after the other; nothing on another system."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
