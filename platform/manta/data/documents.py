"""Reads files into documents: one plain reader per format; what cannot be read is set aside, never fatal."""

from __future__ import annotations

import ast
import email
import gzip
import inspect
import json
import lzma
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import IO

from manta.data.sources import File
from manta.sections.prepare import Source


@dataclass(frozen=True)
class Document:
    """One text. `id` is the file's id, with `#index` where a file holds several."""

    id: str
    source: int  # index into data.sources
    text: str


@dataclass(frozen=True)
class Unreadable:
    """What was set aside: `offset` in bytes (of the decompressed file), for Parquet the row."""

    file: str
    offset: int
    reason: str

    def as_json(self) -> dict[str, str | int]:
        return asdict(self)


# A file that is damaged, vanished or forbidden is set aside. Any other OSError (a network that fails, a full disk) is
# not the file's fault: it stops the run, which can be resumed.
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
FORBIDDEN = (PermissionError, FileNotFoundError, IsADirectoryError)

Found = tuple[str, str] | Unreadable  # (id, text) or what could not be read


def read(file: File, source: Source) -> Iterator[Document | Unreadable]:
    """The documents of one file, in order, and what could not be read. Compressed files are told by their ending."""
    from fsspec.core import open as open_url

    try:
        with open_url(file.url, "rb", compression="infer") as handle:
            for found in FORMATS[source.format](handle, file, source):
                yield found if isinstance(found, Unreadable) else Document(found[0], file.source, found[1])
    except FORBIDDEN as error:
        yield Unreadable(file.id, 0, f"cannot be opened: {error.strerror or error}")
    except DAMAGED as error:
        yield Unreadable(file.id, 0, f"damaged: {error}")


def text(handle: IO[bytes], file: File, _source: Source) -> Iterator[Found]:
    """The whole file, UTF-8, is one document."""
    try:
        yield file.id, handle.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield Unreadable(file.id, error.start, "not UTF-8")


def jsonl(handle: IO[bytes], file: File, source: Source) -> Iterator[Found]:
    """One JSON object a line; `source.text_column` holds the text. Empty lines are skipped."""
    offset = index = 0
    for line in handle:
        start, offset = offset, offset + len(line)
        if not line.strip():
            continue
        index += 1
        found = _json_text(line, source.text_column)
        if isinstance(found, ValueError):
            yield Unreadable(file.id, start, str(found))
        else:
            yield f"{file.id}#{index - 1}", found


def _json_text(line: bytes, column: str) -> str | ValueError:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        return ValueError("not UTF-8")
    except (json.JSONDecodeError, RecursionError) as error:
        return ValueError(f"not JSON: {getattr(error, 'msg', 'nested too deeply')}")
    if not isinstance(record, dict):
        return ValueError(f"a JSON object is needed, this is a {type(record).__name__}")
    if column not in record:
        known = ", ".join(sorted(record)[:8]) or "none"
        return ValueError(f"no column {column!r} (there are: {known})")
    return _checked(record[column], column)


def _checked(value: object, column: str) -> str | ValueError:
    if not isinstance(value, str):
        return ValueError(f"column {column!r} holds a {type(value).__name__}, not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        return ValueError(f"column {column!r} holds half a surrogate pair")
    return value


def parquet(handle: IO[bytes], file: File, source: Source) -> Iterator[Found]:
    """One row, one document; `source.text_column` holds the text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    try:
        table = pq.ParquetFile(handle)
        if source.text_column not in table.schema_arrow.names:
            known = ", ".join(table.schema_arrow.names[:8])
            yield Unreadable(file.id, 0, f"no column {source.text_column!r} (there are: {known})")
            return
        for batch in table.iter_batches(columns=[source.text_column], batch_size=1024):
            for value in batch.column(0).to_pylist():
                found = _checked(value, source.text_column)
                yield (
                    Unreadable(file.id, row, str(found))
                    if isinstance(found, ValueError)
                    else (f"{file.id}#{row}", found)
                )
                row += 1
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        yield Unreadable(file.id, row, f"not Parquet: {str(error).splitlines()[0]}")


def docstrings(handle: IO[bytes], file: File, _source: Source) -> Iterator[Found]:
    """The docstrings of one Python file as one Markdown document; the file is parsed, never imported.

    Each docstring stands, dedented, under a heading that names its module, class or function with its signature.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the files' own invalid escapes
            tree = ast.parse(handle.read())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield Unreadable(file.id, 0, f"not Python: {getattr(error, 'msg', None) or error}")
        return
    module = file.relative.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    sections = [f"{heading}\n\n{body}" for heading, body in _sections(tree, module)]
    if sections:
        yield file.id, "\n\n".join(sections)


Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _sections(node: ast.Module | Definition, name: str) -> Iterator[tuple[str, str]]:
    """(heading, docstring) of a module, class or function and of all defined in it, in the file's order."""
    body = ast.get_docstring(node, clean=False)
    if body and (body := inspect.cleandoc(body).strip()) and _encodable(body):
        yield heading(node, name), body
    stack: list[ast.AST] = [*reversed(node.body)]
    while stack:
        inner = stack.pop()
        if isinstance(inner, Definition):
            yield from _sections(inner, f"{name}.{inner.name}")
        else:  # definitions also stand inside if, try, with
            stack.extend(reversed([*ast.iter_child_nodes(inner)]))


def heading(node: ast.Module | Definition, name: str) -> str:
    """`## `def json.dumps(obj, *, indent=None)``: Markdown, with the definition as the source has it, on one line."""
    if isinstance(node, ast.Module):
        return f"# `{name}`"
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        signature = f"class {name}({bases})" if bases else f"class {name}"
    else:
        word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        signature = f"{word} {name}({ast.unparse(node.args)}){returns}"
    return f"## `{' '.join(signature.split())}`"


def _encodable(body: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in body)


def package_metadata(handle: IO[bytes], file: File, _source: Source) -> Iterator[Found]:
    """The README of an installed package: the description in its *.dist-info/METADATA."""
    try:
        message = email.message_from_string(handle.read().decode())
    except UnicodeDecodeError as error:
        yield Unreadable(file.id, error.start, "not UTF-8")
        return
    body = message.get_payload()
    described = body if isinstance(body, str) and body.strip() else message.get("Description", "")
    if described.strip() not in ("", "UNKNOWN"):
        yield file.id, described


FORMATS: dict[str, Callable[[IO[bytes], File, Source], Iterator[Found]]] = {
    "text": text,
    "jsonl": jsonl,
    "parquet": parquet,
    "docstrings": docstrings,
    "package_metadata": package_metadata,
}
