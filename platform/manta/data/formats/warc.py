"""Reads web archives (WARC, ISO 28500): the pages that servers answered, reduced to their main text."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from typing import Any

from manta.data.formats.found import Found, Unreadable
from manta.data.formats.web import decoded, main_text, reason
from manta.data.sources import File
from manta.sections.prepare import Source

HTML = ("text/html", "application/xhtml+xml")
PLAIN = "text/plain"
MAX_RECORD = 64 << 20  # bytes of one answer, packed or unpacked
OK = 200


def warc(handle: io.BufferedReader, file: File, _source: Source) -> Iterator[Found]:
    """Each successful answer of HTML or plain text is a document, named by the file and the address it came from.

    Where an address comes again, `#` and the record's offset follow it. Other records and answers (requests, images,
    redirects) are no documents. A record whose length is wrong makes the rest of the file unreadable. Memory holds one
    record and the addresses so far.
    """
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    position = seen = 0
    given: set[str] = set()
    kinds = WarcRecordType.any_type
    try:
        for record in ArchiveIterator(_Steps(handle), record_types=kinds, parse_http=False, stream_detect=False):
            position, seen = record.stream_pos, seen + 1
            address = record.headers.get("WARC-Target-URI")
            try:
                _refuse_fragment(record)
                text = _text(record) if record.record_type == WarcRecordType.response else None
            except ValueError as error:
                yield Unreadable(file.id, position, f"record of {address}: {reason(error)}")
            else:
                if text is not None:
                    yield f"{file.id}#{_name(address or str(position), position, given)}", text
    except OSError as error:
        # fastwarc says OSError of bytes that make no sense, as a store does of a lost connection; that one has a number.
        if error.errno is not None or isinstance(error, gzip.BadGzipFile):
            raise
        yield Unreadable(file.id, position, f"not WARC, here or after the record here: {error}")
    else:
        if not seen:
            yield Unreadable(file.id, 0, "an empty file: WARC begins with a record")


def _name(address: str, position: int, given: set[str]) -> str:
    """The address, or another name for it if it was given before: archives hold pages as often as they were visited."""
    name = address
    while name in given:
        name += f"#{position}"
    given.add(name)
    return name


class _Steps:
    """Reads as far as one step of the decoder goes, so that what stands before a damage is seen before its error."""

    def __init__(self, handle: io.BufferedReader):
        self.read, self.tell, self.seek, self.close = handle.read1, handle.tell, handle.seek, handle.close


def _refuse_fragment(record: Any) -> None:
    """Raise ValueError for a record whose header breaks off."""
    if record.headers.get("Content-Length") is None or record.headers.get("WARC-Type") is None:
        raise ValueError("breaks off")


def _text(record: Any) -> str | None:
    """The text of an answer, None where it is no page. Raises ValueError."""
    from fastwarc.warc import WarcRecord

    length = record.content_length
    if length > MAX_RECORD:
        raise ValueError(f"an answer of more than {MAX_RECORD >> 20} MiB")
    block = record.reader.read(length)
    if len(block) < length:
        raise ValueError(f"breaks off after {len(block)} of {length} bytes")
    answer = WarcRecord()  # another one: after an error in this one its archive could not be read on
    answer.is_http = True
    answer.set_bytes_content(block)
    try:
        answer.parse_http(auto_decode="all")
        kind = (answer.http_content_type or "").lower()
        if answer.http_headers is None or answer.http_headers.status_code != OK or kind not in (*HTML, PLAIN):
            return None
        body = answer.reader.read(MAX_RECORD + 1)
    except OSError as error:
        raise ValueError(f"not HTTP: {error}") from error
    if len(body) > MAX_RECORD:
        raise ValueError(f"an answer of more than {MAX_RECORD >> 20} MiB")
    page = decoded(body, answer.http_charset)
    return main_text(page) if kind in HTML else page
