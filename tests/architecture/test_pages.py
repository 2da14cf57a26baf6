"""The README and the guides tell the truth: their commands parse, their links and paths exist, their table is current."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source_tree import ROOT, tracked

PAGES = [path.relative_to(ROOT).as_posix() for path in tracked("*.md")]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SHELLS = ("", "bash", "sh", "console", "shell")
# A word that stands for something the reader fills in.
PLACEHOLDER = re.compile(r"[A-Z]{2,}|<|>|\.\.\.|\[|…|\*")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page: str) -> Iterator[str]:
    """Command lines in a page: the lines of shell blocks, and inline code that starts with `manta` or `make`."""
    text = text_of(page)
    for language, block in FENCE.findall(text):
        if language in SHELLS:
            for line in block.replace("\\\n", " ").splitlines():
                yield line.strip().removeprefix("$ ")
    yield from INLINE.findall(FENCE.sub("", text))


def called(page: str, program: str) -> list[list[str]]:
    """Arguments of each complete call of a program in a page."""
    found = []
    for line in commands(page):
        for part in re.split(r"&&|\|\||;|\|", line.partition(" # ")[0]):
            words = part.split()
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words and words[0].removeprefix(".venv/bin/") == program and not PLACEHOLDER.search(" ".join(words)):
                found.append(shlex.split(" ".join(words))[1:])
    return found


MANTA_CALLS = [(page, " ".join(call)) for page in PAGES for call in called(page, "manta") if call]
MAKE_CALLS = [(page, " ".join(call)) for page in PAGES for call in called(page, "make") if call]


def test_the_readme_shows_the_two_commands() -> None:
    made = {call for page, call in MAKE_CALLS if page == "README.md"}
    assert {"quickstart", "test"} <= made
    assert any(page == "README.md" for page, _ in MANTA_CALLS), "the README names no `manta` command"


@pytest.mark.parametrize(("page", "call"), sorted(set(MANTA_CALLS)))
def test_a_manta_command_in_a_page_is_real(page: str, call: str, capsys: pytest.CaptureFixture[str]) -> None:
    from manta.cli import build_parser

    words = shlex.split(call)
    if len(words) == 1 and not words[0].startswith("-"):
        words.append("--help")  # a command that is only named
    code: object = None
    try:
        build_parser().parse_args(words)
    except SystemExit as end:
        code = end.code
    assert not code, f"{page}: `manta {call}`: {capsys.readouterr().err}"
    for word in words:
        if word.startswith("jobs/"):
            assert (ROOT / word).exists(), f"{page}: `manta {call}`: {word} does not exist"


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize(("page", "call"), sorted(set(MAKE_CALLS)))
def test_a_make_command_in_a_page_is_real(page: str, call: str) -> None:
    targets = {word for word in shlex.split(call) if "=" not in word and not word.startswith("-")}
    assert targets <= make_targets(), f"{page}: `make {call}`"


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_in_a_page_exist(page: str) -> None:
    text = text_of(page)
    missing = []
    for target in LINK.findall(FENCE.sub("", text)):
        if not re.match(r"[a-z]+:|#", target) and not ((ROOT / page).parent / target.partition("#")[0]).exists():
            missing.append(target)
    for code in INLINE.findall(FENCE.sub("", text)):
        first = code.split()[0] if code.split() else ""
        known = first.startswith(
            ("platform/", "jobs/", "serving/", "cluster/", "tests/", "benchmarks/", "docs/", "requirements/")
        )
        if known and not PLACEHOLDER.search(first) and not (ROOT / first.partition(":")[0]).exists():
            missing.append(first)
    assert not missing, f"{page} points at what does not exist: {missing}"


@pytest.mark.parametrize("page", PAGES)
def test_tests_that_a_page_names_exist(page: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text_of(page))
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in text_of(file)]
    assert not missing, f"{page} names tests that do not exist: {missing}"


def test_the_results_table_is_what_the_results_make() -> None:
    script = ROOT / "benchmarks" / "report.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_make_without_a_target_lists_every_target() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    listed = set(re.findall(r"^  make (\w+) ", done.stdout, re.MULTILINE))
    assert listed == make_targets(), "give every target a `## description`"


def test_the_reader_of_commands_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.md").write_text(
        "Use `manta status` or `manta plan RECIPE`.\n```bash\nmake env && .venv/bin/manta run x.yaml stop.steps=1  # note\n```\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert called("page.md", "manta") == [["run", "x.yaml", "stop.steps=1"], ["status"]]
    assert called("page.md", "make") == [["env"]]
