"""Readers of web pages and web archives: main text, encodings, damage, and answers that are no pages."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from manta.data.formats import warc
from tests.data.reading import COMPRESSIONS, read


def page(text: str, head: str = "") -> str:
    return (
        f"<html><head>{head}<title>T</title><script>var x = 1;</script></head><body><nav><a href=/>Home</a></nav>"
        f"<main><h1>Head</h1><p>{text}</p></main><footer>Imprint</footer></body></html>"
    )


ENGLISH = "The café &amp; the garden are open to everybody on every day of the year."
CHINESE = "我们明天去北京大学学习中文，你愿意一起来吗？"


def test_html_is_its_main_text_in_whatever_encoding_it_declares(tmp_path: Path) -> None:
    for number, data in enumerate(
        (
            page(CHINESE + ENGLISH).encode(),
            page(CHINESE + ENGLISH.replace("é", "e"), "<meta charset='gb2312'>").encode("gbk"),
            page(CHINESE + ENGLISH).encode("utf-16"),
        )
    ):
        [document], bad = read(tmp_path / f"{number}.html", "html", data)
        assert not bad
        assert document.id == f"{tmp_path}/{number}.html"
        wanted = ENGLISH.replace("&amp;", "&").replace("é", "e" if number == 1 else "é")
        assert document.text.split() == ["Head", *(CHINESE + wanted).split()]
    header = '<meta http-equiv="Content-Type" content="text/html; charset=windows-1252">'
    [document], _ = read(tmp_path / "latin.html", "html", page(ENGLISH, header).encode("cp1252"))
    assert "café & the garden" in document.text


def test_html_that_cannot_be_decoded_is_set_aside(tmp_path: Path) -> None:
    for name, data, offset, says in (
        ("a", b"", 0, "an empty file"),
        ("b", b"<p>fine until \xff here", 14, "not UTF-8"),
        ("c", b"<meta charset=klingon><p>\xff", 0, "unknown encoding 'klingon'"),
        ("d", b"<meta charset=gbk><p>\xff\xff", 21, "not GB18030"),
    ):
        good, bad = read(tmp_path / f"{name}.html", "html", data)
        assert not good
        assert [(entry.offset, entry.reason) for entry in bad] == [(offset, says)]


def answer(address: str, body: bytes, kind: str = "text/html", status: str = "200 OK", more: str = "") -> bytes:
    """One WARC record of a server's answer."""
    block = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}\r\n".encode() + body
    return (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{address}>\r\nWARC-Target-URI: {address}\r\n"
        "WARC-Date: 2024-01-01T00:00:00Z\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(block)}\r\n\r\n"
    ).encode() + block + b"\r\n\r\n"  # fmt: skip


ANSWERS = [
    answer("http://a.example/en", page(ENGLISH).encode(), "text/html; charset=utf-8"),
    answer("http://a.example/moved", b"gone", status="301 Moved Permanently"),
    answer("http://a.example/image", b"\x89PNG", "image/png"),
    answer("http://a.example/garbled", b"no chunk", more="Transfer-Encoding: chunked\r\n"),
    answer("http://a.example/zh", page(CHINESE).encode("gbk"), "text/html; charset=gb2312"),
    answer("http://a.example/bytes", b"caf\xe9", "text/plain"),
    answer("http://a.example/packed", gzip.compress(page("Packed page.").encode()), more="Content-Encoding: gzip\r\n"),
    answer("http://a.example/plain", "As it is: 中文\n".encode(), "text/plain; charset=utf-8"),
]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_web_archives_give_their_pages_under_their_addresses(tmp_path: Path, ending: str) -> None:
    pack = COMPRESSIONS.get(ending[1:], bytes)
    name = f"a.warc{ending}"
    good, bad = read(tmp_path / name, "warc", b"".join(map(pack, ANSWERS)))
    assert [d.id.removeprefix(f"{tmp_path}/{name}#http://a.example/") for d in good] == ["en", "zh", "packed", "plain"]
    assert [d.text.splitlines()[-1] for d in good] == [
        ENGLISH.replace("&amp;", "&"),
        CHINESE,
        "Packed page.",
        "As it is: 中文",
    ]
    starts = [len(b"".join(ANSWERS[:number])) for number in (3, 5)]
    assert [entry.offset for entry in bad] == starts
    assert "garbled: not HTTP" in bad[0].reason
    assert "bytes: not UTF-8" in bad[1].reason


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_pages_of_the_same_address_have_ids_of_their_own(tmp_path: Path, ending: str) -> None:
    address, start = "http://a.example/news", len(ANSWERS[1])
    visits = [answer(address, page(f"News of day {day}.").encode()) for day in range(3)]
    # An address that is the name of the visit after it.
    body = page("Not what it seems.").encode()
    after = start + sum(map(len, visits)) + len(answer(f"{address}#1000", body))
    forged = answer(f"{address}#{after}", body)
    records = [ANSWERS[1], *visits, forged, visits[0], forged]
    good, bad = read(tmp_path / f"a.warc{ending}", "warc", b"".join(map(COMPRESSIONS.get(ending[1:], bytes), records)))
    assert not bad
    ids = [document.id.removeprefix(f"{tmp_path}/a.warc{ending}#") for document in good]
    assert len(set(ids)) == len(ids) == 6
    assert ids[:3] == [address, *(f"{address}#{start + day * len(visits[0])}" for day in (1, 2))]
    assert ids[3:5] == [f"{address}#{after}", f"{address}#{after}#{after}"]
    assert read(tmp_path / f"a.warc{ending}", "warc") == (good, bad), "the same again"


def test_a_web_archive_keeps_its_records_before_the_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, zh = ANSWERS[0], ANSWERS[4]
    for name, data, kept, offset, says in (
        ("a.warc", first + zh[:-40], 1, len(first), "breaks off after"),
        ("b.warc", first + zh[:60], 1, len(first), "breaks off"),
        ("c.warc", first + b"nonsense\r\n" + zh, 1, 0, "here or after the record here"),
        ("d.warc.gz", gzip.compress(first) + gzip.compress(zh)[:-60], 1, None, "damaged"),
        ("e.warc", b"<html>", 0, 0, "not WARC"),
        ("f.warc", b"", 0, 0, "empty file"),
    ):
        good, bad = read(tmp_path / name, "warc", data)
        assert len(good) == kept, name
        [entry] = bad
        assert says in entry.reason
        assert entry.offset == offset if offset is not None else entry.offset >= len(first)
    monkeypatch.setattr(warc, "MAX_RECORD", 900)
    large = answer("http://a.example/large", b"x" * 1000, "text/plain")
    bomb = answer(
        "http://a.example/bomb", gzip.compress(b"x" * 10_000), "text/plain", more="Content-Encoding: gzip\r\n"
    )
    good, bad = read(tmp_path / "g.warc", "warc", large + bomb + first)
    assert [d.id.rpartition("/")[2] for d in good] == ["en"]
    assert ["an answer of more than" in entry.reason for entry in bad] == [True, True]
