"""Every format's reader: what it finds, and what it sets aside with file, offset and reason."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manta.data import documents, sources
from manta.data.documents import Document, Unreadable
from manta.sections.prepare import Source


def read(path: Path, form: str, data: bytes | None = None, **more: object) -> tuple[list[Document], list[Unreadable]]:
    if data is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    source = Source.model_validate({"path": str(path), "format": form, **more})
    found = [item for file in sources.list_files([source]) for item in documents.read(file, source)]
    return [x for x in found if isinstance(x, Document)], [x for x in found if isinstance(x, Unreadable)]


def test_text_is_one_document_without_its_byte_order_mark(tmp_path: Path) -> None:
    good, bad = read(tmp_path / "a.txt", "text", b"\xef\xbb\xbfGr\xc3\xbc\xc3\x9fe\n")
    assert [(d.id, d.text) for d in good] == [(f"{tmp_path}/a.txt", "Grüße\n")]
    assert not bad


def test_text_that_is_not_utf8_is_set_aside_with_the_offset(tmp_path: Path) -> None:
    good, bad = read(tmp_path / "a.txt", "text", b"fine until \xff here")
    assert not good
    assert bad == [Unreadable(f"{tmp_path}/a.txt", 11, "not UTF-8")]


JSONL = [
    b'{"text": "first"}',
    b"{broken",
    b"",
    b'{"body": "no such column"}',
    b'{"text": 5}',
    b'["a list"]',
    b'{"text": "\\ud800 half a pair"}',
    b'{"text": "caf\xe9"}',
    b'{"text": "last"}',
]


def test_jsonl_goes_on_after_every_kind_of_broken_line(tmp_path: Path) -> None:
    good, bad = read(tmp_path / "a.jsonl", "jsonl", b"\n".join(JSONL))
    assert [(d.id.rpartition("#")[2], d.text) for d in good] == [("0", "first"), ("7", "last")]
    offsets = [sum(len(line) + 1 for line in JSONL[:number]) for number in (1, 3, 4, 5, 6, 7)]
    assert [entry.offset for entry in bad] == offsets
    for entry, says in zip(
        bad, ("not JSON", "no column 'text' (there are: body)", "int", "list", "surrogate", "UTF-8"), strict=True
    ):
        assert says in entry.reason


def test_jsonl_reads_another_column(tmp_path: Path) -> None:
    good, _ = read(tmp_path / "a.jsonl", "jsonl", b'{"body": "yes"}', text_column="body")
    assert good[0].text == "yes"


def test_compressed_files_are_told_by_their_ending_and_damage_costs_only_the_rest(tmp_path: Path) -> None:
    lines = b"".join(json.dumps({"text": f"number {i} " + "x" * 50}).encode() + b"\n" for i in range(2000))
    whole = gzip.compress(lines)
    good, bad = read(tmp_path / "a.jsonl.gz", "jsonl", whole)
    assert (len(good), len(bad)) == (2000, 0)
    good, bad = read(tmp_path / "b.jsonl.gz", "jsonl", whole[: len(whole) // 2])
    assert 0 < len(good) < 2000
    assert "damaged" in bad[-1].reason


def test_parquet_rows_and_its_missing_column_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["one", None, "three"], "n": [1, 2, 3]}), path)
    good, bad = read(path, "parquet")
    assert [(d.id.rpartition("#")[2], d.text) for d in good] == [("0", "one"), ("2", "three")]
    assert [(entry.offset, "NoneType" in entry.reason) for entry in bad] == [(1, True)]
    good, bad = read(path, "parquet", text_column="body")
    assert not good
    assert "no column 'body' (there are: text, n)" in bad[0].reason
    good, bad = read(tmp_path / "b.parquet", "parquet", b"PAR1 not really")
    assert not good
    assert "not Parquet" in bad[0].reason


MODULE = '''"""Module summary.

    Module body.
"""
open("imported", "w")

class Base(dict):
    """Base summary."""

    async def go(self, first, *, second: int = 2) -> None:
        """Go summary.

        Go body.
        """

if True:
    def inner():
        """Inner summary."""

def bare(): ...
'''


def test_docstrings_are_parsed_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pkg" / "sub").mkdir(parents=True)
    (tmp_path / "pkg" / "sub" / "mod.py").write_text(MODULE)
    good, bad = read(Path("pkg/**/*.py"), "docstrings")
    assert not bad
    assert [d.id for d in good] == ["pkg/sub/mod.py"]
    assert good[0].text == (
        "# `sub.mod`\n\nModule summary.\n\nModule body.\n\n"
        "## `class sub.mod.Base(dict)`\n\nBase summary.\n\n"
        "## `async def sub.mod.Base.go(self, first, *, second: int=2) -> None`\n\nGo summary.\n\nGo body.\n\n"
        "## `def sub.mod.inner()`\n\nInner summary."
    )
    assert not (tmp_path / "imported").exists()


def test_python_that_does_not_parse_is_set_aside(tmp_path: Path) -> None:
    for name, data in (("a.py", b"def ("), ("b.py", b"x = 1\0"), ("c.py", b"# coding: none-such\n")):
        good, bad = read(tmp_path / name, "docstrings", data)
        assert not good
        assert "not Python" in bad[0].reason
    assert read(tmp_path / "d.py", "docstrings", b"x = 1\n") == ([], []), "code without docstrings is no document"


def test_a_packages_readme_is_its_metadatas_body(tmp_path: Path) -> None:
    new = b"Metadata-Version: 2.1\nName: x\n\n# X\n\nDoes x.\n"
    old = b"Metadata-Version: 1.1\nName: x\nDescription: Does x.\n        Really.\n"
    assert read(tmp_path / "a" / "METADATA", "package_metadata", new)[0][0].text == "# X\n\nDoes x.\n"
    assert "Really." in read(tmp_path / "b" / "METADATA", "package_metadata", old)[0][0].text
    assert read(tmp_path / "c" / "METADATA", "package_metadata", b"Name: x\n\nUNKNOWN\n") == ([], [])
    assert read(tmp_path / "d" / "METADATA", "package_metadata", b"Name: x\n\n\xff\n")[1][0].reason == "not UTF-8"


def test_a_file_that_vanished_is_set_aside(tmp_path: Path) -> None:
    source = Source(path=f"{tmp_path}/*.txt", format="text")
    (tmp_path / "a.txt").write_text("here")
    [file] = sources.list_files([source])
    (tmp_path / "a.txt").unlink()
    [found] = documents.read(file, source)
    assert isinstance(found, Unreadable)
    assert "cannot be opened: No such file" in found.reason


def test_every_format_of_the_schema_has_a_reader() -> None:
    allowed = Source.model_json_schema()["properties"]["format"]["enum"]
    assert set(allowed) == set(documents.FORMATS)
