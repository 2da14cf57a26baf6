"""Which files a recipe's sources name: globs on any filesystem, and the running interpreter's own folders."""

from __future__ import annotations

import fnmatch
import hashlib
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from manta.errors import InputError
from manta.sections.prepare import Source

# Manta's own README would make a corpus depend on the version of the tool that prepares it.
ALWAYS_EXCLUDED = {"package_metadata": ("manta-*",)}
STDLIB_EXCLUDED = ("site-packages/*", "dist-packages/*")
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class File:
    """One file of a source. `id` is the path as the recipe writes it, so it is the same on every machine."""

    id: str
    url: str  # where it can be opened
    relative: str  # below the source's fixed folder
    size: int  # bytes
    changed: str  # modification time, or the store's tag
    source: int  # index into data.sources

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def list_files(sources: Sequence[Source]) -> list[File]:
    """The files of all sources, sorted by (source, id). Raises InputError when a source matches none."""
    return [file for index, source in enumerate(sources) for file in _matches(index, source)]


def inventory(files: Sequence[File]) -> str:
    """SHA-256 (hex) of the listing: which files, how large, when changed. Opens none of them."""
    hasher = hashlib.sha256()
    for file in files:
        hasher.update(f"{file.source}\0{file.id}\0{file.size}\0{file.changed}\n".encode())
    return hasher.hexdigest()


def grouped(files: Sequence[File], smallest: int = 1 << 20, largest: int = 256 << 20) -> list[list[File]]:
    """Cut the list, in order, into groups of about 1/64 of its bytes, within [smallest, largest] bytes.

    A group is read by one task. The cuts depend on the files alone, never on how many CPUs there are.
    """
    each = 4096  # opening a file costs about as much as reading this many bytes
    wanted = min(max(sum(file.size + each for file in files) // 64, smallest), largest)
    groups: list[list[File]] = [[]]
    filled = 0
    for file in files:
        if groups[-1] and filled + file.size + each > wanted:
            groups.append([])
            filled = 0
        groups[-1].append(file)
        filled += file.size + each
    return [group for group in groups if group]


def _matches(index: int, source: Source) -> list[File]:
    where = f"data.sources.{index}.path = {source.path!r}"
    found: dict[str, File] = {}
    for fixed, pattern in _roots(source.path, where):
        for url, relative, info in _glob(fixed, pattern):
            excluded = (*source.exclude, *ALWAYS_EXCLUDED.get(source.format, ()))
            if source.path.startswith("python://stdlib/"):
                excluded += STDLIB_EXCLUDED
            if any(fnmatch.fnmatchcase(relative, glob) for glob in excluded):
                continue
            name = f"{_fixed_part(source.path)}/{relative}".replace("//", "/").replace(":/", "://")
            changed = info.get("mtime") or info.get("ETag") or info.get("LastModified") or ""
            found.setdefault(name, File(name, url, relative, int(info["size"]), str(changed), index))
    if not found:
        folder = _fixed_part(source.path)
        missing = "://" not in source.path and not Path(folder).expanduser().exists()
        cause = f"{folder} does not exist" if missing else "no readable file matches"
        raise InputError(f"{where}: {cause}: check the path" + (" and `exclude`" if source.exclude else ""))
    return [found[name] for name in sorted(found)]


def _roots(path: str, where: str) -> list[tuple[str, str]]:
    """(fixed folder, glob below it) pairs that a source's path stands for."""
    fixed = _fixed_part(path)
    pattern = path.removeprefix(fixed).lstrip("/")
    if not path.startswith("python://"):
        return [(fixed, pattern)]
    head, _, inside = fixed.removeprefix("python://").partition("/")
    if head == "stdlib":
        folders = [sysconfig.get_path("stdlib")]
    elif head == "site-packages":
        folders = list(dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))))
    else:
        raise InputError(f"{where}: python:// knows stdlib and site-packages, e.g. python://stdlib/**/*.py")
    return [(f"{folder}/{inside}".rstrip("/"), pattern) for folder in folders]


def _fixed_part(path: str) -> str:
    """The leading folders of a glob that hold no wildcard; of a plain path, its folder."""
    parts = path.split("/")
    magic = next((i for i, part in enumerate(parts) if _MAGIC.search(part)), len(parts) - 1)
    return "/".join(parts[:magic]) or ("/" if path.startswith("/") else ".")


def _glob(fixed: str, pattern: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(url, path below `fixed`, info) of the files that match."""
    from fsspec.core import url_to_fs

    filesystem, root = url_to_fs(str(Path(fixed).expanduser().absolute()) if "://" not in fixed else fixed)
    root = root.rstrip("/")
    for name, info in filesystem.glob(f"{root}/{pattern}", detail=True).items():
        if info["type"] == "file":
            url = name if "://" not in fixed else filesystem.unstrip_protocol(name)
            yield url, name.removeprefix(root).lstrip("/"), info
