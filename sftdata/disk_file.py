"""One file on the disk: written in large pieces that are counted and hashed on the way, or read as a digest.

Only `storage.py` writes through this; every operation passes a failpoint (`failpoints.py`).
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from sftdata.errors import StorageError
from sftdata.failpoints import reach

CHUNK = 1 << 20
SMALL_WRITE = 1 << 16
"""Bytes up to which writes are collected: Arrow writes a stream in pieces of eight bytes and more, each else a system call."""

CURES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "; free some space and run again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "; check the permissions"),
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError with path, reason and cure."""
    try:
        yield
    except OSError as error:
        cure = CURES.get(error.errno or 0, "")
        raise StorageError(f"{error.filename or path}: {error.strerror or error}{cure}") from error


class HashingFile(io.RawIOBase):
    """A file being written: counts its bytes and hashes them with xxh3-128 on the way."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        with storage_errors(path):
            reach("create", path)
            self._file = io.FileIO(path, "wb")
        self._path = path
        self._hash = xxhash.xxh3_128()
        self._held = bytearray()
        self.num_bytes = 0

    def writable(self) -> bool:
        """Return True: the file is only ever written."""
        return True

    def write(self, data: Any) -> int:
        """Write all of `data`; small pieces reach the disk together with what follows, or with `flush`."""
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self.num_bytes += len(view)
        if len(view) < SMALL_WRITE:
            self._held += view
            if len(self._held) >= SMALL_WRITE:
                self.flush()
        else:
            self.flush()
            self._write(view)
        return len(view)

    def flush(self) -> None:
        """Hand the small pieces that are still held to the system."""
        held, self._held = self._held, bytearray()
        if held:
            self._write(memoryview(held))

    def _write(self, view: memoryview) -> None:
        with storage_errors(self._path):
            if reach("write", self._path):
                self._file.write(view[: len(view) // 2])
                raise OSError(errno.EIO, "short write", str(self._path))
            written = 0
            while written < len(view):
                written += self._file.write(view[written:]) or 0

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self.num_bytes

    def hexdigest(self) -> str:
        """Return the xxh3-128 of what was written, as 32 hexadecimal digits."""
        return self._hash.hexdigest()

    def sync(self) -> None:
        """Flush the file to the disk."""
        self.flush()
        with storage_errors(self._path):
            reach("fsync", self._path)
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write what is still held and close the file; closing twice is harmless."""
        if not self.closed:
            try:
                self.flush()
            finally:
                with storage_errors(self._path):
                    self._file.close()
                super().close()


def file_digest(path: Path | str, start: int = 0, length: int | None = None) -> str:
    """Return the xxh3-128 of a file's bytes, or of `length` bytes from `start`, as 32 hexadecimal digits.

    Raises StorageError for a file that cannot be read.
    """
    digest = xxhash.xxh3_128()
    with storage_errors(Path(path)):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if start:
                os.lseek(descriptor, start, os.SEEK_SET)
            left = sys.maxsize if length is None else length
            chunk_size = min(CHUNK, os.fstat(descriptor).st_size + 1)  # most files are small: no megabyte for each
            while left and (chunk := os.read(descriptor, min(chunk_size, left))):
                digest.update(chunk)
                left -= len(chunk)
        finally:
            os.close(descriptor)
    return digest.hexdigest()


def stamp(path: Path) -> tuple[int, int]:
    """Return (size, mtime in ns) of a file: where they differ, it may have changed. Raises StorageError."""
    with storage_errors(path):
        status = path.stat()
        return status.st_size, status.st_mtime_ns


def has_digest(path: str, num_bytes: int, digest: str) -> bool:
    """Say whether a file has this size and xxh3-128; False where it cannot be read."""
    try:
        status = os.stat(path)
        return status.st_size == num_bytes and file_digest(path) == digest
    except (OSError, StorageError):
        return False
