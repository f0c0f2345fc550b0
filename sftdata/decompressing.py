"""Decompressed bytes of a file, with all that comes before damage."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from typing import IO, Any

from sftdata.errors import DataError

ZSTD_INPUT = 1024
"""Compressed bytes handed to zstd at a time: they give at most 32 MiB."""


class DamageLastReader(io.BufferedReader):
    """A buffered reader that gives what it could read before an error, and the error with the next call."""

    _failure: DataError | None = None

    def read(self, size: int | None = -1) -> bytes:
        """Return `size` bytes, fewer at the end and before damage; without a size all, or the error. Raises DataError."""
        if size is None or size < 0:
            return super().read(size)
        if self._failure is not None:
            raise self._failure
        pieces: list[bytes] = []
        while size:
            try:
                piece = self.read1(size)
            except DataError as error:
                if not pieces:
                    raise
                self._failure = error
                break
            if not piece:
                break
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


def decompress(raw: IO[bytes], suffix: str) -> Any:
    """Return a stream of the decompressed bytes of a file with this ending; the file itself where it says of no compression."""
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if suffix == ".xz":
        return lzma.LZMAFile(raw)
    if suffix == ".bz2":
        return bz2.BZ2File(raw)
    if suffix == ".zst":
        return _Zstd(raw)
    return raw


def damage(suffix: str) -> tuple[type[Exception], ...]:
    """Return what reading a damaged file of this ending raises, besides OSErrors without a number."""
    if suffix == ".zst":
        import zstandard

        return (EOFError, zstandard.ZstdError)
    return (EOFError, zlib.error, lzma.LZMAError)


class _Zstd:
    """The decompressed bytes of zstd frames. zstandard's own reader takes a file that is cut off for a whole one."""

    def __init__(self, raw: IO[bytes]) -> None:
        import zstandard

        self._raw = raw
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._input = b""
        self._output = memoryview(b"")

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with up to its length of bytes; 0 at the end."""
        while not self._output:
            self._input = self._input or self._raw.read(ZSTD_INPUT)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("the file ends inside a frame")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = self._frame.unused_data
            if self._frame.eof:
                self._frame = None
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count
