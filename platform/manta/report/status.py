"""What ran, what is unfinished, what is running: one row per run below the given folders."""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from typing import Any

from manta import artifact as artifacts
from manta.errors import InputError
from manta.pipeline import figures_line
from manta.storage import Folder


def rows(folders: Sequence[str]) -> list[dict[str, Any]]:
    """One dict per run: path, kind, name, state, fingerprint, created, figures; without folders, what `runs` holds.

    Raises InputError for a missing folder.
    """
    found: list[dict[str, Any]] = []
    for name in folders or (["runs"] if Folder("runs").exists("") else []):
        root = Folder(name)
        if not root.exists(""):
            raise InputError(f"{root.url} does not exist: name a folder that holds runs, such as runs/quickstart")
        manifests = [path for path in root.files() if path.rpartition("/")[2] == artifacts.MANIFEST]
        for path in manifests:
            folder = root / path.rpartition("/")[0] if "/" in path else root
            found.append(_row(folder))
    return sorted(found, key=lambda row: (str(row["created"]), str(row["path"])))


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
        "figures": figures_line(artifacts.Artifact(folder, manifest)),
    }


def _state(folder: Folder) -> str:
    if artifacts.is_complete(folder):
        return "complete"
    return "running" if _is_locked(folder) else "unfinished"


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
