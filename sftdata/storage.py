"""The one seam through which everything that sftdata writes goes.

A file is written under a temporary name, flushed to the disk, renamed, and its folder flushed; a folder is published whole by a
rename. Every operation passes a failpoint (`failpoints.py`), so that a test can kill the process or fail the operation there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from sftdata.errors import LockedError, StorageError
from sftdata.failpoints import reach

CHUNK = 1 << 20

CURES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "; free some space and run again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "; check the permissions"),
}


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cure = CURES.get(error.errno or 0, "")
        raise StorageError(f"{error.filename or path}: {error.strerror or error}{cure}") from error


class HashingFile(io.RawIOBase):
    """A file being written: counts its bytes and hashes them with xxh3-128 on the way."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        with _storage_errors(path):
            reach("create", path)
            self._file = io.FileIO(path, "wb")
        self._path = path
        self._hash = xxhash.xxh3_128()
        self.num_bytes = 0

    def writable(self) -> bool:
        """Return True: the file is only ever written."""
        return True

    def write(self, data: Any) -> int:
        """Write all of `data`."""
        view = memoryview(data).cast("B")
        with _storage_errors(self._path):
            if reach("write", self._path):
                self._file.write(view[: len(view) // 2])
                raise OSError(errno.EIO, "short write", str(self._path))
            written = 0
            while written < len(view):
                written += self._file.write(view[written:]) or 0
        self._hash.update(view)
        self.num_bytes += len(view)
        return len(view)

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self.num_bytes

    def hexdigest(self) -> str:
        """Return the xxh3-128 of what was written, as 32 hexadecimal digits."""
        return self._hash.hexdigest()

    def sync(self) -> None:
        """Flush the file to the disk."""
        with _storage_errors(self._path):
            reach("fsync", self._path)
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if not self.closed:
            with _storage_errors(self._path):
                self._file.close()
        super().close()


def temporary_name(path: Path) -> Path:
    """Return the hidden sibling name under which `path` is written before it is renamed."""
    return path.with_name(f".{path.name}.tmp-{os.getpid()}")


@contextmanager
def create(path: Path, *, durable: bool = True) -> Iterator[HashingFile]:
    """Write a file that appears under its name only when it is complete.

    `durable=False` leaves out the flushes: for cache entries, which check themselves when they are read.
    Raises StorageError; the temporary file is removed when the body raises.
    """
    temporary = temporary_name(path)
    file = HashingFile(temporary)
    try:
        yield file
        if durable:
            file.sync()
        file.close()
        rename(temporary, path, durable=durable)
    except BaseException:
        with contextlib.suppress(StorageError, OSError):  # what went wrong first is what the user needs to know
            file.close()
            temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> str:
    """Write a whole file atomically and return its xxh3-128."""
    with create(path, durable=durable) as file:
        file.write(data)
    return file.hexdigest()


def write_json(path: Path, value: Any, *, durable: bool = True) -> str:
    """Write indented JSON with a final newline, atomically, and return the file's xxh3-128."""
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    return write_bytes(path, text.encode("utf-8"), durable=durable)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk."""
    with _storage_errors(folder):
        reach("fsync_folder", folder)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush a folder to the disk with all that is in it: also what libraries wrote there, which flush nothing themselves."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(root, name)
            with _storage_errors(path), open(path, "rb") as file:
                reach("fsync", path)
                os.fsync(file.fileno())
        sync_folder(Path(root))


def rename(source: Path, target: Path, *, durable: bool = True) -> None:
    """Rename a file or folder over `target` and flush the folder that holds it."""
    with _storage_errors(target):
        reach("rename", target)
        os.rename(source, target)
    if durable:
        sync_folder(target.parent)


def make_folder(path: Path) -> Path:
    """Create a folder and its parents."""
    with _storage_errors(path):
        reach("mkdir", path)
        path.mkdir(parents=True, exist_ok=True)
    return path


def link_or_copy(source: Path, target: Path) -> None:
    """Give a finished file a second name; where the two folders do not share a disk, copy it.

    Both names are read-only from here on: whoever changes one damages the other, which checksums then show.
    """
    with _storage_errors(target):
        reach("link", target)
        try:
            os.link(source, target)
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES):
                raise
    with create(target) as new, _storage_errors(source), open(source, "rb") as old:
        while chunk := old.read(CHUNK):
            new.write(chunk)


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it; one that is not there is fine."""
    with _storage_errors(path):
        reach("remove", path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def file_digest(path: Path, start: int = 0, length: int | None = None) -> str:
    """Return the xxh3-128 of a file's bytes, or of `length` bytes from `start`, as 32 hexadecimal digits."""
    digest = xxhash.xxh3_128()
    left = sys.maxsize if length is None else length
    with _storage_errors(path), open(path, "rb", buffering=0) as file:
        file.seek(start)
        while chunk := file.read(min(CHUNK, left)):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the sibling `.NAME.lock` of a folder while its build runs.

    Raises LockedError with the holder's process when another build holds it. The kernel drops the lock with the process, so
    that a killed build leaves none behind.
    """
    path = folder.with_name(f".{folder.name}.lock")
    make_folder(path.parent)
    with _storage_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with _storage_errors(path):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip() or "another process"
                raise LockedError(f"{folder}: {holder} is building this folder; wait for it or use another --out") from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()}".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Mark an existing folder as being written to, until the block ends or the process dies; several may do so at once."""
    with _storage_errors(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with _storage_errors(folder):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def is_in_use(folder: Path) -> bool:
    """Say whether a living process holds the folder with `in_use`."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def old_name(folder: Path) -> Path:
    """Return the hidden sibling that holds the old folder for the moment between the two renames of a swap."""
    return folder.with_name(f".{folder.name}.old")


def publish(temporary: Path, folder: Path) -> None:
    """Put a complete folder in the place of `folder`: old aside, new in, old removed. Run under `lock`."""
    recover(folder)
    sync_tree(temporary)
    aside = old_name(folder)
    try:
        if folder.exists():
            rename(folder, aside)
        rename(temporary, folder)
    except StorageError:
        recover(folder)
        raise
    remove_tree(aside)


def recover(folder: Path) -> None:
    """Mend what a publish that was killed left behind: the old folder comes back if the new one never came.

    Run under `lock`.
    """
    aside = old_name(folder)
    if not aside.exists():
        return
    if folder.exists():
        remove_tree(aside)
    else:
        rename(aside, folder)
