"""Opens a file for its reader: decompressed as its ending tells, in bounded pieces, with damage and its offset told."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any

PIECE = 4096  # compressed bytes handed to zstd at once: even the best ratio makes at most about 128 MiB of them
MAX_WINDOW = 1 << 31  # what `zstd --long=31` writes, as large dumps do


class Damaged(Exception):
    """A compressed file that breaks off or makes no sense: `offset` is what it gave before, in decompressed bytes."""

    def __init__(self, reason: str, offset: int):
        super().__init__(reason)
        self.offset = offset


@contextlib.contextmanager
def opened(url: str) -> Iterator[io.BufferedReader]:
    """The file's bytes. Raises Damaged while reading, OSError where the store fails."""
    from fsspec.core import open as open_url
    from fsspec.utils import infer_compression

    name = infer_compression(url)
    if name is not None and name not in DECODERS:
        raise Damaged(f"Manta does not unpack {name} files: unpack it", 0)
    with open_url(url, "rb", compression=None) as raw:
        yield io.BufferedReader(Stream(raw, DECODERS[name](raw) if name else raw), buffer_size=1 << 16)


class Stream(io.RawIOBase):
    """The bytes of a file or of a decoder over it. What was decoded before a damage is handed out first."""

    def __init__(self, raw: Any, inner: Any):
        self.raw, self.inner = raw, inner
        # read1 gives what one step of a decoder gave; read would lose it if the next step fails.
        self.take: Callable[[int], bytes] = inner.read if inner is raw else inner.read1
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self.inner.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = self.inner.seek(offset, whence)
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        piece = self.take(len(buffer)) if self.inner is self.raw else self._decoded(len(buffer))
        buffer[: len(piece)] = piece
        self.position += len(piece)
        return len(piece)

    def _decoded(self, size: int) -> bytes:
        try:
            piece = self.take(size)
        except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
            raise Damaged(str(error), self.position) from error
        except OSError as error:
            # bz2 says OSError of bad data, as a store does of a lost connection; only the latter has a number.
            if isinstance(self.inner, bz2.BZ2File) and error.errno is None:
                raise Damaged(str(error), self.position) from error
            raise
        if not piece and self.raw.tell() == 0:
            raise Damaged("an empty file holds no compressed data", 0)
        return piece


class Zstd(io.RawIOBase):
    """All frames of a zstd file, one after the other; a frame that breaks off is an EOFError."""

    def __init__(self, raw: Any):
        import zstandard

        self.raw, self.error = raw, zstandard.ZstdError
        self.decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self.frame: Any = None
        self.waiting = b""  # compressed, not yet decoded
        self.ready = memoryview(b"")  # decoded, not yet handed out

    def read1(self, size: int) -> bytes:
        while not self.ready:
            if self.frame is not None and self.frame.eof:
                self.waiting = self.frame.unused_data + self.waiting
                self.frame = None
            self.waiting = self.waiting or self.raw.read(1 << 16)
            if not self.waiting:
                if self.frame is not None:
                    raise EOFError("the file ends within a zstd frame")
                return b""
            self.frame = self.frame or self.decoder.decompressobj()
            piece, self.waiting = self.waiting[:PIECE], self.waiting[PIECE:]
            try:
                self.ready = memoryview(self.frame.decompress(piece))
            except self.error as error:
                raise EOFError(str(error)) from error
        given, self.ready = bytes(self.ready[:size]), self.ready[size:]
        return given


# fsspec's name of a compression -> what decodes it.
DECODERS: dict[str, Callable[[Any], Any]] = {
    "gzip": lambda raw: gzip.GzipFile(fileobj=raw),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "lzma": lzma.LZMAFile,
    "zstd": Zstd,
}
