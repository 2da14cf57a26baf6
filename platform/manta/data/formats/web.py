"""Reads web pages: HTML of any declared encoding, reduced to its main text."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from manta.data.formats.found import Found, Unreadable
from manta.data.sources import File
from manta.sections.prepare import Source

# <meta charset=...>, <meta http-equiv=... content="...; charset=...">, <?xml ... encoding=...?>
DECLARED = re.compile(rb"<(?:meta[^>]+charset|\?xml[^>]+encoding)\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
DECLARED_WITHIN = 1024  # bytes, as the HTML standard has it
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def html(handle: io.BufferedReader, file: File, _source: Source) -> Iterator[Found]:
    """The file's main text, without navigation, headers and footers, is one document."""
    data = handle.read()
    if not data:
        yield Unreadable(file.id, 0, "an empty file")
        return
    try:
        yield file.id, main_text(decoded(data))
    except ValueError as error:
        yield Unreadable(file.id, getattr(error, "start", 0), reason(error))


def decoded(data: bytes, declared: str | None = None) -> str:
    """A page's characters: UTF-8 if it is that, else as the server or the page declares. Raises ValueError.

    An encoding is never guessed: a guess makes wrong text of a page with a single bad byte.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode(_encoding(data, declared))


def _encoding(data: bytes, declared: str | None) -> str:
    """Python's name of the encoding, as browsers understand the declared one (WHATWG's encoding standard)."""
    import codecs

    from resiliparse.parse.encoding import map_encoding_to_html5

    if data.startswith(UTF16_MARKS):
        return "utf-16"
    inside = DECLARED.search(data[:DECLARED_WITHIN])
    name = declared or (inside.group(1).decode("ascii", "replace") if inside else "utf-8")
    mapped = map_encoding_to_html5(name, fallback_utf8=False)
    if mapped is None:
        raise ValueError(f"unknown encoding {name!r}")
    try:
        # GB 18030 is GBK with every other character of Unicode added.
        return "gb18030" if mapped.lower() == "gbk" else codecs.lookup(mapped).name
    except LookupError:
        raise ValueError(f"unknown encoding {name!r}") from None


def main_text(page: str) -> str:
    """The text of a page's main part (resiliparse's rules), a line a block. Raises ValueError."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLParserException

    try:
        return str(extract_plain_text(page, main_content=True, alt_texts=False))
    except HTMLParserException as error:
        raise ValueError(f"not HTML: {error}") from error


def reason(error: ValueError) -> str:
    return f"not {error.encoding.upper()}" if isinstance(error, UnicodeDecodeError) else str(error)
