"""Archives as input: the members of a zip or tar file, and the bytes of one of them. Nothing is unpacked to the disk."""

from __future__ import annotations

import io
import lzma
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sftdata.errors import DataError

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
ARCHIVE_ENDINGS = (".zip", *TAR_ENDINGS)

DAMAGE: tuple[type[Exception], ...] = (
    OSError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # zipfile: the member is encrypted
    NotImplementedError,  # zipfile: an unknown compression
)
"""What reading a damaged, encrypted or unknown archive raises."""


def is_archive(path: Path) -> bool:
    """Return whether a file's ending says that it is an archive."""
    return path.name.lower().endswith(ARCHIVE_ENDINGS)


def member_names(path: Path) -> dict[str, str]:
    """Return the files in an archive that are not hidden: name without `./` → name as the archive has it, the last of a name.

    Raises DataError for an archive that cannot be read.
    """
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
        else:
            with tarfile.open(path) as tar:
                names = [member.name for member in tar if member.isfile()]
                _check_whole(tar)
    except DAMAGE as error:
        raise DataError(f"{path}: is no archive that can be read: {error}") from error
    clean = {posixpath.normpath(name).lstrip("/"): name for name in names}
    return {name: found for name, found in clean.items() if not _is_hidden(name)}


def _check_whole(tar: tarfile.TarFile) -> None:
    """Raise TarError where no block of zeros follows the last member: tarfile takes a tar that is cut off for a shorter one."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.TarError("it is cut off")


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part != ".." for part in name.split("/"))


@contextmanager
def open_member(path: Path, member: str) -> Iterator[IO[bytes]]:
    """Open the bytes of one member; those of a compressed tar are found by reading it from its beginning.

    Raises DataError where the archive has no such file any more, and what `DAMAGE` lists.
    """
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            try:
                stream = archive.open(member)
            except KeyError as error:
                raise DataError(f"{path}: has no member {member!r}") from error
            with stream:
                yield stream
        return
    with tarfile.open(path) as tar:
        try:
            found = tar.extractfile(member)
        except KeyError as error:
            raise DataError(f"{path}: has no member {member!r}") from error
        with found or io.BytesIO() as stream:
            yield stream
