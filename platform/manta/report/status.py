"""What ran, what is unfinished, what is running: one row per run below the given folders."""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from typing import Any

from manta import artifact as artifacts
from manta.errors import InputError
from manta.pipeline import figures_line
from manta.storage import Folder
from manta.tune import reading


def rows(folders: Sequence[str]) -> list[dict[str, Any]]:
    """One dict per run: path, kind, name, state, fingerprint, created, figures; without folders, what `runs` holds.

    Trials of a sweep are shown where the sweep itself, or a folder in it, is named. Raises InputError for a missing folder.
    """
    found: list[dict[str, Any]] = []
    for name in folders or (["runs"] if Folder("runs").exists("") else []):
        root = Folder(name)
        if not root.exists(""):
            raise InputError(f"{root.url} does not exist: name a folder that holds runs, such as runs/quickstart")
        manifests = [path for path in root.files() if path.rpartition("/")[2] == artifacts.MANIFEST]
        for path in manifests:
            folder = root / path.rpartition("/")[0] if "/" in path else root
            if not _is_hidden(path, manifests):
                found.append(_row(folder))
    return sorted(found, key=lambda row: (str(row["created"]), str(row["path"])))


def _is_hidden(path: str, manifests: Sequence[str]) -> bool:
    """Whether a run is a trial of a sweep that lies below the folder that was named."""
    sweep, trials, _ = path.rpartition(f"/{reading.TRIALS}/")
    return bool(trials) and f"{sweep}/{artifacts.MANIFEST}" in manifests


def _row(folder: Folder) -> dict[str, Any]:
    manifest = artifacts.read_manifest(folder)
    assert manifest is not None
    return {
        "path": folder.url,
        "kind": manifest["kind"],
        "name": manifest["name"],
        "state": _state(folder),
        "fingerprint": manifest["fingerprint"],
        "created": manifest["created"],
        "figures": _figures(artifacts.Artifact(folder, manifest)),
    }


def _figures(run: artifacts.Artifact) -> str:
    """Key figures; of a sweep that is not finished how far it is."""
    if run.kind != "tune" or run.metrics:
        return figures_line(run)
    trials = reading.read(run.folder, run.manifest).trials
    counts = {status: sum(line["status"] == status for line in trials) for status in reading.STATUSES}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)


def _state(folder: Folder) -> str:
    if artifacts.is_complete(folder):
        return "complete"
    if _is_locked(folder):
        return "running"
    line = reading.line_of(folder)
    return "unfinished" if line is None or line["status"] in ("under way", "complete") else str(line["status"])


def unfinished(folder: Folder) -> str:
    """What to say of a run that is not complete. A trial that its sweep gave up is not to be carried on."""
    state, line = _state(folder), reading.line_of(folder)
    if state == "running":
        return "still running: this is what there is so far"
    if state == "unfinished" or line is None:
        whole = folder.url if line is None else folder.url.rpartition(f"/{reading.TRIALS}/")[0]
        return f"not finished: `manta resume {whole}` carries it on"
    if line["status"] == "failed":
        return f"failed: {line['reason']}"
    return f"{line['status']} at step {line['step']} by its sweep, which is how it is meant: the others were better by then"


def _is_locked(folder: Folder) -> bool:
    """Whether a process on this machine is at work in a local folder."""
    if folder.local_path is None or not folder.exists(".lock"):
        return False
    with (folder.local_path / ".lock").open("r") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def table(found: Sequence[dict[str, Any]]) -> str:
    """The rows as aligned text."""
    if not found:
        return "no runs here yet: `manta run jobs/recipes/quickstart/pipeline.yaml` makes the first"
    lines = [("KIND", "STATE", "FINGERPRINT", "PATH", "FIGURES")]
    lines += [(row["kind"], row["state"], row["fingerprint"][:12], row["path"], row["figures"]) for row in found]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join(
        "  ".join([*(text.ljust(width) for text, width in zip(line[:4], widths, strict=True)), line[4]]).rstrip()
        for line in lines
    )
