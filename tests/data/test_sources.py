"""Which files a source names, under which ids, and what an empty source says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from manta.data import sources
from manta.data.formats import FORMATS
from manta.errors import InputError
from manta.sections.prepare import Source


def text_source(path: object, **more: object) -> Source:
    return Source.model_validate({"path": str(path), "format": "text"} | more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.txt", "a.txt", "sub/deep/c.txt", "sub/skip.txt", "notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_glob_lists_files_in_order_with_ids_as_the_recipe_writes_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    files = sources.list_files([text_source(f"{folder.name}/**/*.txt", exclude=["*/skip.txt"])])
    assert [file.id for file in files] == [f"{folder.name}/{name}" for name in ("a.txt", "b.txt", "sub/deep/c.txt")]
    assert [file.relative for file in files] == ["a.txt", "b.txt", "sub/deep/c.txt"]
    assert all(Path(file.url).read_text() == file.relative for file in files), (
        "absolute, for workers that run elsewhere"
    )


def test_a_plain_path_is_a_source_of_one_file(folder: Path) -> None:
    assert [file.id for file in sources.list_files([text_source(folder / "a.txt")])] == [f"{folder}/a.txt"]


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_stands_for_the_files_of_its_format_below_it(folder: Path, slash: str) -> None:
    for name in ("packed.txt.zst", "sub/more.txt.gz", "table.csv", "data-0.arrow", "sub/cache-1.arrow", "page.HTM"):
        (folder / name).write_text(name)
    found = sources.list_files([text_source(f"{folder}{slash}", exclude=["sub/deep/*"])])
    named = ["a.txt", "b.txt", "notes.md", "packed.txt.zst", "sub/more.txt.gz", "sub/skip.txt"]
    assert [file.relative for file in found] == named, "exclude is relative to the folder"
    assert [file.id for file in found] == [f"{folder}/{name}" for name in named]
    arrow = sources.list_files([text_source(folder, format="datasets")])
    assert [file.relative for file in arrow] == ["data-0.arrow"]
    with pytest.raises(InputError, match=r"no readable file below it is called \*\.warc"):
        sources.list_files([text_source(folder, format="warc")])


def test_a_folder_of_the_interpreter_is_a_source_too() -> None:
    names = [file.id for file in sources.list_files([Source(path="python://stdlib/json", format="docstrings")])]
    assert "python://stdlib/json/decoder.py" in names
    assert len(sources.list_files([Source(path="python://stdlib", format="docstrings")])) == len(
        sources.list_files([Source(path="python://stdlib/**/*.py", format="docstrings")])
    )


def test_every_format_has_usual_names() -> None:
    assert set(sources.USUAL_NAMES) == set(FORMATS)


def test_sources_keep_the_recipes_order(folder: Path) -> None:
    files = sources.list_files([text_source(folder / "b.txt"), text_source(folder / "*.txt")])
    assert [(file.source, file.relative) for file in files] == [(0, "b.txt"), (1, "a.txt"), (1, "b.txt")]


def test_the_interpreters_own_files_have_the_same_ids_on_every_machine() -> None:
    python = Source(path="python://stdlib/json/**/*.py", format="docstrings", exclude=["tool.py"])
    names = [file.id for file in sources.list_files([python])]
    assert "python://stdlib/json/decoder.py" in names
    assert "python://stdlib/json/tool.py" not in names, "patterns are relative to the folder before the first wildcard"


def test_the_standard_library_never_includes_installed_packages() -> None:
    found = sources.list_files([Source(path="python://stdlib/**/*.py", format="docstrings")])
    assert len(found) > 100
    assert not [file.id for file in found if "-packages/" in file.id]


def test_readmes_leave_out_mantas_own() -> None:
    found = sources.list_files([Source(path="python://site-packages/*.dist-info/METADATA", format="package_metadata")])
    assert found
    assert not [file.id for file in found if "/manta-" in file.id]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nowhere/*.txt", "nowhere does not exist"),
        ("*.csv", "no readable file matches"),
        ("python://elsewhere/*.py", "stdlib and site-packages"),
    ],
)
def test_a_source_without_files_names_the_setting_and_the_cause(
    folder: Path, monkeypatch: pytest.MonkeyPatch, path: str, says: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=says) as caught:
        sources.list_files([text_source("*.txt"), text_source(path)])
    assert "data.sources.1.path" in str(caught.value)
    assert path in str(caught.value)


def test_inventory_notices_a_changed_a_touched_and_a_new_file(folder: Path) -> None:
    listing = [text_source(folder / "*.txt")]
    seen = {sources.inventory(sources.list_files(listing))}
    assert sources.inventory(sources.list_files(listing)) in seen
    for change in (
        lambda: (folder / "a.txt").write_text("longer than before"),
        lambda: os.utime(folder / "a.txt", (1, 1)),
        lambda: (folder / "z.txt").write_text("new"),
    ):
        change()
        after = sources.inventory(sources.list_files(listing))
        assert after not in seen
        seen.add(after)


def test_groups_hold_every_file_once_in_order_and_are_bounded() -> None:
    sizes = [10, 500, 40_000_000, 3, 900_000, 900_000, 900_000, 7]
    files = [sources.File(f"f{i}", f"f{i}", f"f{i}", size, "", 0) for i, size in enumerate(sizes)]
    groups = sources.grouped(files, smallest=1 << 20)
    assert [file for group in groups for file in group] == files
    assert [[file.id for file in group] for group in groups] == [
        ["f0", "f1"],
        ["f2"],
        ["f3", "f4"],
        ["f5"],
        ["f6", "f7"],
    ]
    assert sources.grouped([]) == []
