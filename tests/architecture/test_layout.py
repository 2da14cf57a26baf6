"""How the tree looks: every file says what it is for, none is too long, nothing private or half-done is in it."""

from __future__ import annotations

import ast
import re

import pytest

from tests.architecture.source_tree import ROOT, parse, tracked

MAX_LINES = 400
FOLDERS = [
    "platform/manta",
    "jobs/recipes",
    "serving",
    "cluster",
    "tests",
    "benchmarks/results",
    "docs",
    "requirements",
]
# Written in pieces, so that this file does not contain what it looks for.
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")
PRIVATE = re.compile(
    "|".join(
        [
            r"(?<![\w}])/wo" + r"rk/\w",
            r"/ro" + r"ot/",
            r"pypi" + r"\.org",
            r"files\.python" + r"hosted",
            r"registry\." + r"npmjs",
            r"deb\.debian" + r"\.org",
            r"download\.py" + r"torch",
            r"/opt/" + r"(wheels|pypi)",
            r"--(extra-)?index" + r"-url",
        ]
    )
)
BARE_EXCEPTS = (None, "Exception", "BaseException")


def python_files() -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in tracked("*.py")]


def text_files() -> list[str]:
    binary = {".png", ".svg", ".ico", ".parquet", ".safetensors"}
    return [path.relative_to(ROOT).as_posix() for path in tracked() if path.suffix not in binary]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_tree_has_its_rooms(folder: str) -> None:
    assert (ROOT / folder).is_dir()
    assert tracked(folder), f"{folder} is empty"


def test_files_stay_short() -> None:
    lengths = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in python_files()}
    long = {name: length for name, length in lengths.items() if length > MAX_LINES}
    assert not long, f"over {MAX_LINES} lines: split by purpose: {long}"


def test_every_file_says_what_it_is_for() -> None:
    mute = []
    for name in python_files():
        tree = parse(ROOT / name)
        first = (ast.get_docstring(tree) or "").partition("\n")[0].strip()
        if len(first) < 15 or not isinstance(tree.body[0], ast.Expr) or tree.body[0].lineno not in (1, 2):
            mute.append(name)
    assert not mute, f"the first line must be a docstring that says the file's purpose: {mute}"


def test_nothing_is_left_unfinished() -> None:
    found = [
        f"{name}:{number}: {line.strip()[:80]}"
        for name in text_files()
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert not found, "\n".join(found)


def test_nothing_private_is_in_the_tree() -> None:
    """No path of somebody's machine and no registry's address: where packages come from is the machine's setting."""
    found = [
        f"{name}:{number}: {line.strip()[:80]}"
        for name in text_files()
        for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1)
        if PRIVATE.search(line)
    ]
    assert not found, "\n".join(found)


def test_no_error_is_hidden() -> None:
    """`except Exception` that neither raises nor uses the error would hide what went wrong."""
    hidden = []
    for path in tracked("platform/*.py", "serving/*.py", "jobs/*.py", "benchmarks/*.py", "requirements/*.py"):
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = None if node.type is None else ast.unparse(node.type)
            uses = {inner.id for part in node.body for inner in ast.walk(part) if isinstance(inner, ast.Name)}
            raises = any(isinstance(inner, ast.Raise) for part in node.body for inner in ast.walk(part))
            attributes = {
                inner.attr for part in node.body for inner in ast.walk(part) if isinstance(inner, ast.Attribute)
            }
            prints = "traceback" in uses or "exception" in attributes  # log.exception
            if caught in BARE_EXCEPTS and not raises and not prints and (node.name is None or node.name not in uses):
                hidden.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not hidden, "\n".join(hidden)


def test_jobs_are_thin() -> None:
    long = [path.name for path in tracked("jobs/*.py") if len(path.read_text().splitlines()) > 30]
    assert not long, f"an entry only calls the command line: {long}"


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in tracked("tests/*.py") if path.name.startswith("test_")]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice, f"two test files with one name cannot be told apart in reports: {twice}"
