"""Folders on any filesystem (fsspec): the few verbs that artifacts need, atomic where the filesystem allows it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manta.errors import InputError


class NoStore(InputError):
    """A kind of store that this environment cannot talk to."""


class Folder:
    """A folder (or, for inputs, a file) at a local path or a URL such as s3://bucket/prefix.

    Local paths are kept absolute, so that workers with another working directory find them.
    """

    def __init__(self, url: str | Path):
        text = str(url)
        if "://" not in text or text.startswith("file://"):
            self.local_path: Path | None = Path(text.removeprefix("file://")).expanduser().absolute()
            self.url = str(self.local_path)
        else:
            self.local_path = None
            self.url = text.rstrip("/")

    def __repr__(self) -> str:
        return f"Folder({self.url!r})"

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.url}/{name}")

    @property
    def _fs(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        try:
            filesystem, path = url_to_fs(self.url)
        except ImportError as error:
            raise NoStore(f"{self.url}: {error}: put that package into this environment with pip") from None
        except ValueError as error:  # a protocol that fsspec does not know
            raise NoStore(f"{self.url}: {error}: use a path, or s3://, gs://, abfs:// and the like") from None
        return filesystem, path

    def _path(self, name: str) -> tuple[Any, str]:
        filesystem, root = self._fs
        return filesystem, f"{root}/{name}" if name else root

    def make(self) -> None:
        if self.local_path is not None:
            self.local_path.mkdir(parents=True, exist_ok=True)
        else:
            filesystem, root = self._fs
            filesystem.makedirs(root, exist_ok=True)

    def exists(self, name: str) -> bool:
        if self.local_path is not None:
            return (self.local_path / name).exists()
        filesystem, path = self._path(name)
        return bool(filesystem.exists(path))

    def is_file(self) -> bool:
        if self.local_path is not None:
            return self.local_path.is_file()
        filesystem, root = self._fs
        return bool(filesystem.isfile(root))

    def files(self) -> list[str]:
        """Relative paths of all files below, sorted."""
        if self.local_path is not None:
            found = [
                str(Path(root, name).relative_to(self.local_path))
                for root, _, names in os.walk(self.local_path)
                for name in names
            ]
        else:
            filesystem, root = self._fs
            prefix = filesystem._strip_protocol(root).rstrip("/") + "/"
            found = [str(path).removeprefix(prefix) for path in filesystem.find(root)]
        return sorted(found)

    def size(self) -> int:
        """Bytes of all files below."""
        if self.local_path is not None:
            return sum((self.local_path / name).stat().st_size for name in self.files())
        filesystem, root = self._fs
        return int(filesystem.du(root))

    def read_text(self, name: str) -> str:
        if self.local_path is not None:
            return (self.local_path / name).read_text(encoding="utf-8")
        filesystem, path = self._path(name)
        return str(filesystem.cat_file(path).decode())

    def first_bytes(self, name: str, count: int) -> bytes:
        """The first bytes of a file, or all of them where it has no more."""
        if self.local_path is not None:
            with (self.local_path / name).open("rb") as handle:
                return handle.read(count)
        filesystem, path = self._path(name)
        return bytes(filesystem.cat_file(path, start=0, end=count))

    def write_text(self, name: str, text: str) -> None:
        """Write a file so that readers see the old text or the new one, never half of it."""
        if self.local_path is None:
            filesystem, path = self._path(name)
            filesystem.pipe_file(path, text.encode())
            return
        target = self.local_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with scratch.open("w", encoding="utf-8") as handle:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)

    def file_sha256(self, name: str = "") -> str:
        """SHA-256 (hex) of one file, read in pieces."""
        if self.local_path is not None:
            with (self.local_path / name if name else self.local_path).open("rb") as handle:
                return hashlib.file_digest(handle, "sha256").hexdigest()
        filesystem, path = self._path(name)
        with filesystem.open(path, "rb") as handle:
            hasher = hashlib.sha256()
            while piece := handle.read(1 << 20):
                hasher.update(piece)
        return hasher.hexdigest()

    def clear(self, name: str = "") -> None:
        """Remove everything below (the folder and a lock in it stay), or one file or subfolder."""
        if self.local_path is None:
            filesystem, path = self._path(name)
            if filesystem.exists(path):
                filesystem.rm(path, recursive=True)
            return
        targets = [self.local_path / name] if name else [p for p in self.local_path.iterdir() if p.name != ".lock"]
        for target in targets:
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes that call this waiting; the kernel lets go when the holder dies. A remote store has no
        locks: there, what is done inside must come to the same bytes whoever does it."""
        if self.local_path is None:
            yield
            return
        self.make()
        with (self.local_path / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        """A local folder to fill that becomes `name` in one go when the block ends without an error."""
        if self.local_path is not None:
            scratch = self.local_path / f".{name.replace('/', '_')}.{os.getpid()}.tmp"
            if scratch.exists():
                shutil.rmtree(scratch)
            scratch.mkdir(parents=True)
            try:
                yield scratch
                target = self.local_path / name
                if target.exists():
                    shutil.rmtree(target)
                target.parent.mkdir(parents=True, exist_ok=True)
                scratch.replace(target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            return
        with tempfile.TemporaryDirectory(prefix="manta-") as scratch_name:
            yield Path(scratch_name)
            self.clear(name)
            filesystem, path = self._path(name)
            filesystem.put(scratch_name + "/", path + "/", recursive=True)

    @contextlib.contextmanager
    def local(self, name: str = "") -> Iterator[Path]:
        """This folder as a local one: itself, or a temporary copy of a remote one."""
        if self.local_path is not None:
            yield self.local_path / name
            return
        with tempfile.TemporaryDirectory(prefix="manta-") as scratch:
            filesystem, path = self._path(name)
            filesystem.get(path + "/", scratch + "/", recursive=True)
            yield Path(scratch)
