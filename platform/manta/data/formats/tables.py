"""Reads tables: Parquet files, and the Arrow files that Hugging Face's `save_to_disk` writes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

from manta.data.formats.found import Found, Unreadable, checked, no_column
from manta.data.sources import File
from manta.sections.prepare import Source


def parquet(handle: io.BufferedReader, file: File, source: Source) -> Iterator[Found]:
    """One row, one document; `source.text_column` holds the text."""
    import pyarrow.parquet as pq

    def batches() -> Iterator[Any]:
        table = pq.ParquetFile(handle)
        yield table.schema_arrow
        if source.text_column in table.schema_arrow.names:
            yield from table.iter_batches(columns=[source.text_column], batch_size=1024)

    if handle.seekable():
        yield from _rows(batches(), "Parquet", file, source.text_column)
    else:
        yield Unreadable(file.id, 0, "not Parquet: it is read from its end, which this compression forbids: unpack it")


def datasets(handle: io.BufferedReader, file: File, source: Source) -> Iterator[Found]:
    """One row, one document, of an Arrow stream; a batch (1,000 rows as it is usually written) is in memory at once."""
    import pyarrow as pa

    def batches() -> Iterator[Any]:
        stream = pa.ipc.open_stream(handle)
        yield stream.schema
        yield from stream

    yield from _rows(batches(), "an Arrow stream", file, source.text_column)


def _rows(batches: Iterator[Any], kind: str, file: File, column: str) -> Iterator[Found]:
    """The column's texts, of an iterator that gives the schema and then record batches."""
    import pyarrow as pa

    row = 0
    try:
        schema = next(batches)
        if column not in schema.names:
            yield Unreadable(file.id, 0, no_column(column, schema.names))
            return
        for batch in batches:
            for value in _values(batch.column(column)):
                found = value if isinstance(value, ValueError) else checked(value, column)
                if isinstance(found, ValueError):
                    yield Unreadable(file.id, row, _reason(found))
                else:
                    yield f"{file.id}#{row}", found
                row += 1
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        yield Unreadable(file.id, row, f"not {kind}: {str(error).splitlines()[0]}")
    except OSError as error:
        # Of bytes that make no sense Arrow says OSError, as a store does of a lost connection; that one has a number.
        if error.errno is not None:
            raise
        yield Unreadable(file.id, row, f"not {kind}: {str(error).splitlines()[0]}")


def _values(column: Any) -> Iterable[Any]:
    """The values, each by itself where one of them is not UTF-8; that one as its error."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return error


def _reason(error: ValueError) -> str:
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
