"""Every format's reader: what it finds, and what it sets aside with file, offset and reason."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manta.data import documents, sources
from manta.data.documents import Unreadable
from manta.data.formats import found
from manta.sections.prepare import Source
from tests.data.reading import COMPRESSIONS, read


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


def test_jsonl_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    good, bad = read(
        tmp_path / "a.jsonl", "jsonl", mark + b'{"text": "one"}\n{"text": "two"}\n' + mark + b'{"text": "three"}'
    )
    assert [d.text for d in good] == ["one", "two"]
    assert [entry.offset for entry in bad] == [len(mark) + 32], "nowhere else"
    assert read(tmp_path / "b.jsonl", "jsonl", mark + b"\r\n") == ([], [])


def test_jsonl_reads_another_column(tmp_path: Path) -> None:
    good, _ = read(tmp_path / "a.jsonl", "jsonl", b'{"body": "yes"}', text_column="body")
    assert good[0].text == "yes"


def test_a_line_that_is_too_long_is_set_aside_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found, "MAX_LINE", 100)
    long = json.dumps({"text": "x" * 950}).encode()
    good, bad = read(tmp_path / "a.jsonl", "jsonl", b'{"text": "first"}\n' + long + b'\n{"text": "last"}\n')
    assert [(d.id.rpartition("#")[2], d.text) for d in good] == [("0", "first"), ("2", "last")]
    assert [(entry.offset, "a line of more than" in entry.reason) for entry in bad] == [(18, True)]


LINES = b"".join(json.dumps({"text": f"number {i} 第{i}号 " + "x" * (i % 50)}).encode() + b"\n" for i in range(20_000))


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_compressed_files_are_told_by_their_ending_and_damage_costs_only_the_rest(tmp_path: Path, ending: str) -> None:
    pack = COMPRESSIONS[ending]
    whole = pack(LINES)
    good, bad = read(tmp_path / f"a.jsonl.{ending}", "jsonl", whole)
    assert (len(good), bad) == (20_000, [])
    twice, bad = read(tmp_path / f"b.jsonl.{ending}", "jsonl", whole + whole)
    assert (len(twice), bad) == (40_000, []), "files may be written in several streams, one after the other"
    for number, harmed in enumerate((whole[: -len(whole) // 4], whole + pack(LINES)[: len(whole) // 2])):
        good, bad = read(tmp_path / f"{number}.jsonl.{ending}", "jsonl", harmed)
        least = (
            20_000 * number if number or ending == "bz2" else 1
        )  # bz2 packs 900 kB at once: of one block nothing is whole
        assert least <= len(good) < 20_000 * (number + 1)
        assert [d.text for d in good] == [d.text for d in twice[: len(good)]]
        [entry] = bad
        assert "damaged" in entry.reason
        read_bytes = sum(len(line) + 1 for line in (LINES + LINES).split(b"\n")[: len(good)])
        assert read_bytes <= entry.offset < read_bytes + 200, "the offset is that of the decompressed text"


@pytest.mark.parametrize("ending", COMPRESSIONS)
def test_bytes_that_are_not_compressed_at_all_are_set_aside(tmp_path: Path, ending: str) -> None:
    for name, data in (("a", b"plain text, not packed " * 9), ("b", b"")):
        good, bad = read(tmp_path / f"{name}.txt.{ending}", "text", data)
        assert not good
        assert [(entry.offset, entry.reason.startswith("damaged: ")) for entry in bad] == [(0, True)]


def test_a_zip_archive_is_not_taken_for_its_first_file(tmp_path: Path) -> None:
    good, bad = read(tmp_path / "a.txt.zip", "text", b"PK")
    assert not good
    assert "unpack it" in bad[0].reason


CSV = (
    b'\xef\xbb\xbfid,text\r\n1,"He said ""hi"",\r\nthen left"\r\n2,plain\r\n\r\n3,one,too many\r\n'
    b'4,"broken"quote\r\n5,\xff\r\n6,\xe4\xb8\xad\xe6\x96\x87\xef\xbc\x8c\r\n7,"never closed\r\n8,lost\r\n'
)


def test_csv_goes_on_after_every_kind_of_broken_record(tmp_path: Path) -> None:
    good, bad = read(tmp_path / "a.csv", "csv", CSV)
    assert [(d.id.rpartition("#")[2], d.text) for d in good] == [
        ("0", 'He said "hi",\r\nthen left'),
        ("1", "plain"),
        ("5", "中文，"),
    ]
    assert [entry.offset for entry in bad] == [6, 7, 8, 10], "the line on which the record begins"
    says = ("line 6: 3 fields, the header has 2", "line 7: broken CSV", "line 8: not UTF-8", "line 10: broken CSV")
    for entry, words in zip(bad, says, strict=True):
        assert entry.reason.startswith(words)


def test_csv_needs_its_header_and_takes_fields_of_any_length(tmp_path: Path) -> None:
    for name, data, offset, says in (
        ("a", b"", 0, "empty file"),
        ("b", b"id,body\n1,x\n", 1, "no column 'text' (there are: id, body)"),
        ("c", b'"id"x,text\n1,x\n', 1, "broken CSV"),
    ):
        good, bad = read(tmp_path / f"{name}.csv", "csv", data)
        assert not good
        assert [(entry.offset, says in entry.reason) for entry in bad] == [(offset, True)]
    long = "字 word\n" * 100_000
    good, bad = read(tmp_path / "d.csv", "csv", f'text\n"{long}"\nnext\n'.encode())
    assert ([d.text for d in good], bad) == ([long, "next"], [])


def test_csv_that_is_compressed_and_breaks_off_keeps_its_first_records(tmp_path: Path) -> None:
    rows = b"text\n" + b"".join(b'"row %d, %d"\n' % (i, i * 7919 % 10_007) for i in range(50_000))
    packed = COMPRESSIONS["zst"](rows)
    good, bad = read(tmp_path / "a.csv.zst", "csv", packed[: len(packed) // 2])
    assert 0 < len(good) < 50_000
    assert good[-1].text.startswith(f"row {len(good) - 1}, ")
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


def bad_utf8(texts: list[bytes]) -> pa.Array:
    """A column that claims to be text and is not."""
    return pa.array(texts, pa.binary()).view(pa.string())


def test_a_row_of_a_table_that_is_not_utf8_costs_only_itself(tmp_path: Path) -> None:
    table = pa.table({"text": bad_utf8([b"one", b"tw\xff", "三".encode()])})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_stream(tmp_path / "data-0.arrow", table.schema) as stream:
        stream.write_table(table)
    for path, form in ((tmp_path / "a.parquet", "parquet"), (tmp_path / "data-0.arrow", "datasets")):
        good, bad = read(path, form)
        assert [(d.id.rpartition("#")[2], d.text) for d in good] == [("0", "one"), ("2", "三")]
        assert [(entry.offset, entry.reason) for entry in bad] == [(1, "not UTF-8")]


def test_folders_of_hugging_face_datasets_are_read_with_their_splits(tmp_path: Path) -> None:
    import datasets

    texts = {"train": [f"text {i} 文本" for i in range(2500)], "test": ["held out", None]}
    whole = datasets.DatasetDict({name: datasets.Dataset.from_dict({"text": rows}) for name, rows in texts.items()})
    whole.save_to_disk(tmp_path / "both", num_shards={"train": 2, "test": 1})
    whole["train"].save_to_disk(tmp_path / "one")
    (tmp_path / "both" / "train" / "cache-1.arrow").write_bytes(b"what a transformation left")
    good, bad = read(tmp_path / "both", "datasets")
    assert [d.text for d in good] == ["held out", *texts["train"]]
    assert [(d.id.removeprefix(f"{tmp_path}/both/")) for d in good[:2]] == [
        "test/data-00000-of-00001.arrow#0",
        "train/data-00000-of-00002.arrow#0",
    ]
    assert [(entry.offset, "NoneType" in entry.reason) for entry in bad] == [(1, True)]
    for path in (tmp_path / "one", tmp_path / "one" / "data-*.arrow"):
        assert [d.text for d in read(path, "datasets")[0]] == texts["train"]


def test_an_arrow_file_keeps_its_rows_before_the_damage(tmp_path: Path) -> None:
    table = pa.table({"text": [f"text {i}" for i in range(3000)]})
    path = tmp_path / "data-0.arrow"
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table, max_chunksize=1000)
    whole = path.read_bytes()
    good, bad = read(path, "datasets", whole[: len(whole) * 3 // 4])
    assert (len(good), [entry.offset for entry in bad]) == (2000, [2000])
    assert "not an Arrow stream" in bad[0].reason
    good, bad = read(path, "datasets", whole, text_column="body")
    assert "no column 'body' (there are: text)" in bad[0].reason
    for data in (b"", b"not arrow at all", whole[:100]):
        good, bad = read(path, "datasets", data)
        assert (good, [entry.offset for entry in bad]) == ([], [0])


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
