"""The one seam through which everything that sftdata writes goes.

A file is written under a temporary name, flushed to the disk, renamed, and its folder flushed; a folder is published whole by a
rename. Every operation passes a failpoint (`failpoints.py`), so that a test can kill the process or fail the operation there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sftdata.disk_file import CHUNK, storage_errors
from sftdata.disk_file import HashingFile as HashingFile
from sftdata.disk_file import file_digest as file_digest
from sftdata.disk_file import has_digest as has_digest
from sftdata.disk_file import stamp as stamp
from sftdata.errors import LockedError, StorageError
from sftdata.failpoints import reach


def temporary_name(path: Path) -> Path:
    """Return the hidden sibling under which `path` is written before it is renamed: no process of any machine has the same."""
    return path.with_name(f".{path.name}.tmp-{os.uname().nodename}-{os.getpid()}")


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
    with storage_errors(folder):
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
            with storage_errors(path), open(path, "rb") as file:
                reach("fsync", path)
                os.fsync(file.fileno())
        sync_folder(Path(root))


def rename(source: Path, target: Path, *, durable: bool = True) -> None:
    """Rename a file or folder over `target` and flush the folder that holds it."""
    with storage_errors(target):
        reach("rename", target)
        os.rename(source, target)
    if durable:
        sync_folder(target.parent)


def make_folder(path: Path) -> Path:
    """Create a folder and its parents."""
    with storage_errors(path):
        reach("mkdir", path)
        path.mkdir(parents=True, exist_ok=True)
    return path


def link_or_copy(source: Path, target: Path) -> None:
    """Give a finished file a second name; where the two folders do not share a disk, copy it.

    Both names are read-only from here on: whoever changes one damages the other, which checksums then show.
    """
    with storage_errors(target):
        reach("link", target)
        try:
            os.link(source, target)
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES):
                raise
    copy(source, target)


def copy(source: Path, target: Path) -> None:
    """Copy a file piece by piece, whatever its size."""
    with create(target) as new, storage_errors(source), open(source, "rb") as old:
        while chunk := old.read(CHUNK):
            new.write(chunk)


def remove_tree(path: Path) -> None:
    """Remove a file, a link, or a folder and all in it; what is not there is fine."""
    if not path.is_dir() or path.is_symlink():
        _remove(path)
        return
    for root, folders, names in os.walk(path, topdown=False):
        for name in (*names, *folders):
            _remove(Path(root, name))
    _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, a link or an empty folder."""
    with storage_errors(path):
        reach("remove", path)
        with contextlib.suppress(FileNotFoundError):  # another process removes the same folder
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the sibling `.NAME.lock` of a folder while its build runs.

    Raises LockedError with the holder's process when another build holds it. The kernel drops the lock with the process, so
    that a killed build leaves none behind.
    """
    path = folder.with_name(f".{folder.name}.lock")
    make_folder(path.parent)
    with storage_errors(path):
        reach("lock", path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with storage_errors(path):
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
    with storage_errors(folder):
        reach("lock", folder)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with storage_errors(folder):
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


@contextmanager
def staged(folder: Path, identity: str) -> Iterator[Path]:
    """Yield an empty sibling folder, and publish it in the place of `folder` when the block ends. Run under `lock`.

    It is named after `identity`, what the folder will be; where the block raises, it is removed and `folder` is as it was.
    """
    temporary = folder.with_name(f".{folder.name}.tmp-{identity}")
    remove_tree(temporary)
    make_folder(temporary)
    try:
        yield temporary
        publish(temporary, folder)
    except BaseException:
        with contextlib.suppress(StorageError):  # what went wrong first is what the user needs to know
            remove_tree(temporary)
        raise


def remove_staged(folder: Path) -> None:
    """Remove the siblings of `folder` that killed processes had staged. Run under `lock`."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.tmp-*"):
        remove_tree(left)


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
    except BaseException:  # also where the user stops the build between the two renames
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
