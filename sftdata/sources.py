"""Input files: which files a source names, in which order, under which names, and how their bytes are read."""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

from sftdata.archives import DAMAGE, is_archive, member_names, open_member
from sftdata.decompressing import DamageLastReader, damage, decompress
from sftdata.errors import DamagedInputError, DataError

COMPRESSED = (".gz", ".zst", ".xz", ".bz2")

MAX_EXPANSION = 200
"""Decompressed bytes per compressed byte past which a file is refused as a decompression bomb …"""
EXPANSION_GRACE = 64 << 20
"""… once it has given this many bytes."""
BUFFER = 1 << 20


class Piece(NamedTuple):
    """A run of whole records of a file, which is read as if the rest were not there but numbered as if it were."""

    start: int
    """The first byte."""
    length: int
    """Number of bytes."""
    first_record: int
    """Records before the piece."""
    first_line: int
    """Lines before the piece."""
    layout: dict[str, Any] | None = None
    """JSON values: what the ingestor found in the whole file and needs to read the piece; the manifest says it on."""
    state: dict[str, Any] | None = None
    """JSON values: where in its structure the file stands at the first byte, for an ingestor that must know.

    `numbers`: where each table counts its own records, the first number in the piece of those that it may hold.
    """


@dataclass(frozen=True)
class InputFile:
    """One input file, or a piece of one: where it lies and the name that ids use."""

    path: Path
    name: str
    """The path relative to the source's path, with `/`; a single file's own name; `a.zip!/m.html` in archives. Always UTF-8."""
    piece: Piece | None = None
    """The piece that is read; None reads all."""
    member: str | None = None
    """The member of an archive at `path` that is read, as the archive names it."""
    layout: dict[str, Any] | None = None
    """JSON values: what the ingestor's `sniff` found in the file; None: the ingestor looks itself."""

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the bytes of the file, its piece or its member, decompressed by the file's ending (.gz, .zst, .xz, .bz2).

        Opening and reading raise DataError for a file that cannot be read, of it DamagedInputError for one that is damaged, is
        cut off or expands without measure.
        """
        with ExitStack() as stack:
            try:
                opened = open_member(self.path, self.member) if self.member else io.FileIO(self.path, "rb")
                raw = stack.enter_context(cast(AbstractContextManager[IO[bytes]], opened))
            except DAMAGE as error:
                raise _unreadable(self.place, error) from error
            yield cast(BinaryIO, DamageLastReader(_Checked(raw, self), BUFFER))

    @property
    def place(self) -> str:
        """The file as messages name it."""
        return f"{self.path}!/{self.member}" if self.member else str(self.path)

    def read(self, limit: int | None = None) -> bytes:
        """Return the file's bytes, or its first `limit` bytes."""
        with self.open() as stream:
            return stream.read(-1 if limit is None else limit)


class _Checked(io.RawIOBase):
    """The decompressed bytes of a file; whatever goes wrong when they are read is a DataError that names the file."""

    def __init__(self, raw: IO[bytes], file: InputFile) -> None:
        super().__init__()
        self._left = file.piece.length if file.piece else None
        if file.piece:
            raw.seek(file.piece.start)
        self._raw, self._path, self._given = raw, file.place, 0
        suffix = Path(file.member or file.path).suffix.lower()
        self._compressed = suffix in COMPRESSED or file.member is not None
        self._size = file.path.stat().st_size if file.member else None
        self._stream = decompress(raw, suffix)
        self._errors: tuple[type[Exception], ...] = (OSError, *damage(suffix), *(DAMAGE if file.member else ()))

    def readable(self) -> bool:
        """Return True: the file is only ever read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with up to its length of bytes; 0 at the end. Raises DataError."""
        if self._left is not None:
            buffer = memoryview(buffer)[: self._left]
        try:
            count = self._read_once(buffer) if hasattr(self._stream, "read1") else self._stream.readinto(buffer) or 0
        except self._errors as error:
            raise _unreadable(self._path, error) from error
        if self._compressed:
            self._measure(count)
        if self._left is not None:
            self._left -= count
        return count

    def _read_once(self, buffer: Any) -> int:
        """Fill as much of the buffer as one step of decompressing gives: damage further on must not take it away."""
        data = self._stream.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _measure(self, count: int) -> None:
        self._given += count
        taken = self._raw.tell() if self._size is None else self._size
        if not taken:
            raise DamagedInputError(f"{self._path}: cannot be read: damaged or cut off (no byte in it)")
        if self._given > max(EXPANSION_GRACE, MAX_EXPANSION * taken):
            message = f"{self._path}: expands more than {MAX_EXPANSION} times; refused as a decompression bomb"
            raise DamagedInputError(message, "file_expands")


def _unreadable(place: str, error: Exception) -> DataError:
    """Return the error for what went wrong with a file: with its bytes, or with getting at them."""
    if isinstance(error, OSError) and error.errno:
        return DataError(f"{place}: cannot be read: {error.strerror}")
    return DamagedInputError(f"{place}: cannot be read: damaged or cut off ({error})")


def bare_suffix(name: str) -> str:
    """Return the ending that names the format: `.jsonl` for `a.jsonl.gz`."""
    path = Path(name.lower())
    return path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix


def list_files(paths: Sequence[Path], suffixes: Sequence[str], exclude: Sequence[Path] = ()) -> list[InputFile]:
    """Return the files that a source's paths name, sorted by the bytes of their names; the same file is never listed twice.

    A folder yields the files below it that end in one of `suffixes` (before a compression's ending), or all files where there
    are no suffixes; a glob and a plain path are taken as they are, and an archive yields its members as a folder would. Names
    that begin with a dot and the folders in `exclude` are left out of folders and globs. Names that are not UTF-8 are escaped
    (`\\xff`). Raises DataError where a path matches nothing or something that cannot be read, or two files have one name.
    """
    excluded = {path.resolve() for path in exclude}
    found: list[Path] = []
    anchors: list[str] = []
    for path in paths:
        matches, anchor = _matches(path, suffixes, excluded)
        found.extend(matches)
        anchors.append(os.path.abspath(anchor))
    base = os.path.commonpath(anchors)
    names = {path: os.fsencode(os.path.relpath(os.path.abspath(path), base)) for path in found}
    unique: dict[Path, Path] = {}
    for path in sorted(names, key=lambda path: (names[path], os.fsencode(path))):
        unique.setdefault(path.resolve(), path)
    files: dict[str, InputFile] = {}
    for path in unique.values():
        for file in _members(InputFile(path, names[path].decode("utf-8", "backslashreplace")), suffixes):
            if file.name in files:
                raise DataError(f"{file.place}: {files[file.name].place!r} has the same name in ids, {file.name}; rename one")
            files[file.name] = file
    return list(files.values())


def _members(file: InputFile, suffixes: Sequence[str]) -> list[InputFile]:
    """Return the members of an archive that fit, by the bytes of their names, or the file itself where it is none."""
    if not is_archive(file.path):
        return [file]
    names = member_names(file.path)
    fit = {name: found for name, found in names.items() if not suffixes or bare_suffix(name) in suffixes}
    if not fit:
        raise DataError(f"{file.path}: holds no file{' that ends in ' + ' or '.join(suffixes) if suffixes else ''}")
    readable = {name.encode("utf-8", "backslashreplace"): found for name, found in fit.items()}
    return [InputFile(file.path, f"{file.name}!/{name.decode()}", member=readable[name]) for name in sorted(readable)]


def _matches(path: Path, suffixes: Sequence[str], excluded: set[Path]) -> tuple[list[Path], Path]:
    """Return the files that a path names, and the folder that their names are relative to."""
    if path.is_file():
        return [path], path.parent
    if path.is_dir():
        matches = list(_walk(path, suffixes, excluded))
        if not matches:
            raise DataError(f"{path}: holds no file that ends in {' or '.join(suffixes)}" if suffixes else f"{path}: is empty")
        return matches, path
    if os.path.lexists(path):
        raise DataError(f"{path}: is neither a file nor a folder (a link that leads nowhere?)")
    if not glob.has_magic(str(path)):
        raise DataError(f"{path}: no such file or folder")
    return _glob(path, excluded)


def _glob(pattern: Path, excluded: set[Path]) -> tuple[list[Path], Path]:
    """Return the files that match, and the folder where matching begins: the last parent that exists as it is written."""
    base = next(parent for parent in pattern.parents if parent.is_dir() or parent == parent.parent)
    names = glob.glob(str(pattern.relative_to(base)), root_dir=base, recursive=True)
    files = [path for path in (base / name for name in names) if path.is_file()]
    around = {base.resolve(), *base.resolve().parents}  # what the pattern itself lies in is not left out
    matches = [path for path in files if (excluded - around).isdisjoint(path.resolve().parents)]
    if not matches:
        raise DataError(f"{pattern}: matches no file")
    return matches, base


def _walk(folder: Path, suffixes: Sequence[str], excluded: set[Path]) -> Iterator[Path]:
    """Yield the files below a folder in the order of their names' bytes; linked folders are entered once."""
    entered = {*excluded}
    for root, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        entered.add(Path(root).resolve())
        visible = sorted((name for name in folders if not name.startswith(".")), key=os.fsencode)
        folders[:] = [name for name in visible if (Path(root) / name).resolve() not in entered]
        for name in sorted(names, key=os.fsencode):
            if name.startswith(".") or (suffixes and bare_suffix(name) not in suffixes):
                continue
            path = Path(root) / name
            if not path.is_file():
                raise DataError(f"{path}: is neither a file nor a folder (a link that leads nowhere?)")
            yield path


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
