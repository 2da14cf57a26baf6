"""DeepSpeed's C++ communication op for CPUs: built once at set-up, never in the middle of a training run.

Left alone, DeepSpeed compiles it when the first engine starts, for minutes, behind a lock file that a killed build
leaves behind and on which the next one waits for ever. Here it is built by `warm()` and only ever *loaded* by workers,
without a lock. Training does not depend on it: its collectives go through gloo, the op serves DeepSpeed's tensor-parallel
kernels. So a machine without a compiler trains all the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

NAME = "deepspeed_shm_comm"
MARKER = "manta.json"  # written after a complete build: what it was built for


def build_folder() -> Path:
    """Where torch keeps this op (it honours TORCH_EXTENSIONS_DIR)."""
    from torch.utils.cpp_extension import _get_build_directory

    return Path(_get_build_directory(NAME, False))


def compiler() -> str | None:
    """The C++ compiler of this machine, for the op and for compiled models; None if there is none."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "c++"))), None)


def _built_for() -> dict[str, str]:
    return {"python": sys.version.split()[0], **{name: metadata.version(name) for name in ("torch", "deepspeed")}}


def is_built(folder: Path) -> bool:
    """Whether a complete build for the installed versions lies in `folder`."""
    marker = folder / MARKER
    return marker.exists() and (folder / f"{NAME}.so").exists() and json.loads(marker.read_text()) == _built_for()


def settle() -> None:
    """Give DeepSpeed the built op, or tell it to do without. Never compiles, never waits. Call before it starts."""
    import deepspeed
    from deepspeed.ops.op_builder.builder import OpBuilder
    from torch.utils.cpp_extension import _import_module_from_library

    folder = build_folder()
    if is_built(folder):
        OpBuilder._loaded_ops[NAME] = _import_module_from_library(NAME, str(folder), True)
    else:
        deepspeed.ops.__compatible_ops__[NAME] = False


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second set-up waiting; the kernel lets go of the lock when its holder dies."""
    with (folder / "manta.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def warm() -> str:
    """Build the op unless it is built; returns a line that says what was done. Safe to repeat, and after a killed build."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    folder = build_folder()
    with _alone(folder):
        if is_built(folder):
            return f"{NAME}: built already, in {folder}"
        if not compiler():
            return f"{NAME}: no C++ compiler here, so it is left out; training needs it not (install g++ to have it)"
        # Every build of Manta's holds the lock above, so torch's own lock file is a killed build's.
        (folder / "lock").unlink(missing_ok=True)
        started = time.monotonic()
        with contextlib.redirect_stdout(sys.stderr):
            from deepspeed.accelerator import get_accelerator

            get_accelerator().create_op_builder("ShareMemCommBuilder").load(verbose=False)
        (folder / MARKER).write_text(json.dumps(_built_for()))
    return f"{NAME}: built in {time.monotonic() - started:.0f} s, in {folder}"
