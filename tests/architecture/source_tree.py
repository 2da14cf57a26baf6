"""Reads the source tree without importing it: which module imports what, at its top or inside a function."""

from __future__ import annotations

import ast
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = {"manta": ROOT / "platform" / "manta", "serving": ROOT / "serving"}


class Imported(NamedTuple):
    """One import: the full name it may bind (`from a import b` gives a.b), and whether it runs when the module loads."""

    name: str
    top: bool
    line: int


@functools.cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, for Manta and serving."""
    found = {}
    for package, folder in SOURCE_ROOTS.items():
        for path in sorted(folder.rglob("*.py")):
            inner = path.relative_to(folder).with_suffix("").parts
            parts = [package, *(inner[:-1] if inner[-1] == "__init__" else inner)]
            found[".".join(parts)] = path
    return found


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@functools.cache
def imports(path: Path) -> tuple[Imported, ...]:
    """Every import of a file. Those under `if TYPE_CHECKING:` never run and are left out."""
    return tuple(_walk(parse(path).body, top=True))


def _walk(body: list[ast.stmt], top: bool) -> Iterator[Imported]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Imported(alias.name, top, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import at line {node.lineno}: write the full name"
            yield from (Imported(f"{node.module}.{alias.name}", top, node.lineno) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        else:
            inside = top and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            for field in ("body", "orelse", "finalbody", "handlers", "cases"):
                yield from _walk(getattr(node, field, []), inside)


def own_module(name: str) -> str | None:
    """The module of ours that `import name` loads: name itself, or its parent when name is a function or class."""
    known = modules()
    while name:
        if name in known:
            return name
        name = name.rpartition(".")[0]
    return None


def tracked(*patterns: str) -> list[Path]:
    """Files that git knows, by pattern."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]
