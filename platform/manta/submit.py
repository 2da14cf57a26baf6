"""`manta submit`: the same recipe as a Ray job; sends tracked files only, follows the log, exits as the job did."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manta import pipeline
from manta import recipe as recipes
from manta.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, InputError, StageFailed

RECONNECT_SECONDS = 300


def submit(recipe: str, overrides: Sequence[str], address: str, as_json: bool = False) -> int:
    """Submit `jobs/KIND.py RECIPE` to the cluster whose dashboard is at `address`; returns the job's exit code.

    Losing the connection does not lose the job: its log is taken up where it broke off, for up to five minutes.
    Raises InputError when the recipe or the address is wrong, StageFailed when the cluster stays away.
    """
    kind = _kind(recipe, overrides)
    root = _root()
    file = Path(recipe).resolve()
    if not file.is_relative_to(root):
        raise InputError(f"recipe {recipe} is outside {root}: a job sees the files of the project only; move it there")
    script = "run" if kind == "pipeline" else kind
    # The job shell splits these words again.
    words = ["python", f"jobs/{script}.py", str(file.relative_to(root)), *overrides, *(["--json"] if as_json else [])]
    client = _client(address)
    with tempfile.TemporaryDirectory(prefix="manta-submit-") as scratch:
        packed = pack(root, Path(scratch) / "project", also=file)
        job = client.submit_job(
            entrypoint=" ".join(shlex.quote(word) for word in words), runtime_env={"working_dir": str(packed)}
        )
    print(f"submitted {job} to {address}", file=sys.stderr, flush=True)
    try:
        status = follow(client, job)
    except KeyboardInterrupt:
        print(f"the job goes on; `ray job logs {job}` shows it, `ray job stop {job}` ends it", file=sys.stderr)
        return EXIT_INTERRUPTED
    info = client.get_job_info(job)
    if as_json:
        print(json.dumps({"event": "job", "id": job, "status": str(status), "exit_code": info.driver_exit_code}))
    if status == "SUCCEEDED":
        return EXIT_DONE
    return info.driver_exit_code or EXIT_FAILED


def _kind(recipe: str, overrides: Sequence[str]) -> str:
    """Validate here, before anything travels."""
    if recipes.kind_of(recipe) == "pipeline":
        pipeline.load(recipe, overrides)
        return "pipeline"
    return recipes.load(recipe, overrides).kind


def _root() -> Path:
    """The project's checkout: where `jobs/` and `platform/` live."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "jobs" / "prepare.py").is_file():
        raise InputError(
            "manta submit sends the project's checkout, but this Manta is installed without one: clone it and run from there"
        )
    return root


def pack(root: Path, target: Path, also: Path) -> Path:
    """Copy the files that git tracks (as they are in the working tree), and `also`, to `target`.

    `.gitignore` files stay behind: Ray would follow them, and leave out an ignored recipe that was asked for.
    """
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, check=False)
    if listed.returncode:
        raise InputError(
            f"{root} is not a git checkout: manta submit sends tracked files only; run `git init` and `git add` first"
        )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    for name in {*names, str(also.relative_to(root))}:
        source = root / name
        if source.is_file() and source.name != ".gitignore":
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    return target


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"--address {address}: no Ray dashboard answers there ({error}): give the dashboard's URL, such as http://head:8265; "
            "with token authentication on, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        ) from error


def follow(client: Any, job: str) -> str:
    """Print the job's log to stdout until it ends, reconnecting where it broke off; returns its final status."""
    shown, lost_since = 0, None
    while True:
        try:
            status = client.get_job_status(job)  # before the log, so that the last lines are never missed
            log = client.get_job_logs(job)
            lost_since = None
        except (ConnectionError, OSError, RuntimeError) as error:
            lost_since = lost_since or time.monotonic()
            if time.monotonic() - lost_since > RECONNECT_SECONDS:
                raise StageFailed(
                    f"the cluster has not answered for {RECONNECT_SECONDS} s ({error}); job {job} may still run: `ray job status {job}`"
                ) from error
            time.sleep(2)
            continue
        sys.stdout.write(log[shown:])
        sys.stdout.flush()
        shown = len(log)
        if status.is_terminal():
            return str(status.value)
        time.sleep(1)
