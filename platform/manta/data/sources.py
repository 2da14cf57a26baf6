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
# What the files of a format are usually called: which files a source means that names a folder.
USUAL_NAMES = {
    "text": ("*.txt", "*.text", "*.md"),
    "jsonl": ("*.jsonl", "*.ndjson"),
    "parquet": ("*.parquet",),
    "csv": ("*.csv",),
    "html": ("*.html", "*.htm", "*.xhtml"),
    "warc": ("*.warc",),
    "datasets": ("data-*.arrow",),  # beside them save_to_disk's folders may hold caches of other transformations
    "docstrings": ("*.py",),
    "package_metadata": ("METADATA",),
}
COMPRESSED = ("", ".gz", ".bz2", ".xz", ".zst")


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
    path, names = _meant(source, where)
    excluded = (*source.exclude, *ALWAYS_EXCLUDED.get(source.format, ()))
    if path.startswith("python://stdlib/"):
        excluded += STDLIB_EXCLUDED
    found: dict[str, File] = {}
    for fixed, pattern in _roots(path, where):
        for url, relative, info in _glob(fixed, pattern):
            if names and not _any_match(relative.rpartition("/")[2], names):
                continue
            if _any_match(relative, excluded):
                continue
            name = f"{_fixed_part(path)}/{relative}".replace("//", "/").replace(":/", "://")
            changed = info.get("mtime") or info.get("ETag") or info.get("LastModified") or ""
            found.setdefault(name, File(name, url, relative, int(info["size"]), str(changed), index))
    if not found:
        raise InputError(
            f"{where}: {_why_none(path, names)}: check the path" + (" and `exclude`" if source.exclude else "")
        )
    return [found[name] for name in sorted(found)]


def _meant(source: Source, where: str) -> tuple[str, tuple[str, ...]]:
    """(path as a glob, names that files must have): a folder stands for all files of the format below it."""
    below = f"{source.path.rstrip('/')}/**"
    if _MAGIC.search(source.path) or not any(_is_folder(root) for root, _ in _roots(below, where)):
        return source.path, ()
    return below, tuple(name + ending for name in USUAL_NAMES[source.format] for ending in COMPRESSED)


def _any_match(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def _why_none(path: str, names: tuple[str, ...]) -> str:
    folder = _fixed_part(path)
    if "://" not in path and not Path(folder).expanduser().exists():
        return f"{folder} does not exist"
    usual = ", ".join(names[:: len(COMPRESSED)])
    return f"no readable file below it is called {usual}" if names else "no readable file matches"


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


def _is_folder(path: str) -> bool:
    filesystem, root = _opened(path)
    return bool(filesystem.isdir(root))


def _opened(path: str) -> tuple[Any, str]:
    """(filesystem, path on it) of a local path or a URL."""
    from fsspec.core import url_to_fs

    filesystem, root = url_to_fs(str(Path(path).expanduser().absolute()) if "://" not in path else path)
    return filesystem, root.rstrip("/")


def _glob(fixed: str, pattern: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(url, path below `fixed`, info) of the files that match."""
    filesystem, root = _opened(fixed)
    for name, info in filesystem.glob(f"{root}/{pattern}", detail=True).items():
        if info["type"] == "file":
            url = name if "://" not in fixed else filesystem.unstrip_protocol(name)
            yield url, name.removeprefix(root).lstrip("/"), info
