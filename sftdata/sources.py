"""Input files: which files a source names, in which order, under which names, and how their bytes are read."""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import lzma
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from sftdata.errors import DataError

COMPRESSED = (".gz", ".zst", ".xz", ".bz2")

MAX_EXPANSION = 200
"""Decompressed bytes per compressed byte past which a file is refused as a decompression bomb …"""
EXPANSION_GRACE = 64 << 20
"""… once it has given this many bytes."""


@dataclass(frozen=True)
class InputFile:
    """One input file: where it lies and the name that ids use."""

    path: Path
    name: str
    """The path relative to the source's path, with `/`; a single file's own name."""

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the bytes for reading, decompressed by the file's ending (.gz, .zst, .xz, .bz2).

        Raises DataError for a file that cannot be read, is cut off or expands without measure.
        """
        try:
            with open(self.path, "rb") as raw:
                stream = _decompress(raw, self.path.suffix.lower())
                yield cast(BinaryIO, _Guarded(stream, raw, self) if stream is not raw else raw)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise DataError(f"{self.path}: cannot be read: {error}") from error

    def read(self, limit: int | None = None) -> bytes:
        """Return the file's bytes, or its first `limit` bytes."""
        with self.open() as stream:
            return stream.read(-1 if limit is None else limit)


def _decompress(raw: BinaryIO, suffix: str) -> BinaryIO:
    if suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if suffix == ".xz":
        return cast(BinaryIO, lzma.LZMAFile(raw))
    if suffix == ".bz2":
        return cast(BinaryIO, bz2.BZ2File(raw))
    if suffix == ".zst":
        import zstandard

        return cast(BinaryIO, zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False))
    return raw


class _Guarded(io.BufferedReader):
    """A decompressed stream that refuses to expand without measure."""

    def __init__(self, stream: BinaryIO, raw: BinaryIO, file: InputFile) -> None:
        super().__init__(_Counting(stream, raw, file), buffer_size=1 << 20)


class _Counting(io.RawIOBase):
    def __init__(self, stream: BinaryIO, raw: BinaryIO, file: InputFile) -> None:
        super().__init__()
        self._stream, self._raw, self._file, self._given = stream, raw, file, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._stream.read(len(view))
        view[: len(data)] = data
        self._given += len(data)
        if self._given > max(EXPANSION_GRACE, MAX_EXPANSION * self._raw.tell()):
            raise DataError(f"{self._file.path}: expands more than {MAX_EXPANSION} times; refused as a decompression bomb")
        return len(data)


def bare_suffix(name: str) -> str:
    """Return the ending that names the format: `.jsonl` for `a.jsonl.gz`."""
    path = Path(name.lower())
    while path.suffix in COMPRESSED:
        path = path.with_suffix("")
    return path.suffix


def list_files(paths: Sequence[Path], suffixes: Sequence[str], exclude: Sequence[Path] = ()) -> list[InputFile]:
    """Return the files that a source's paths name, sorted by the UTF-8 bytes of their names.

    A folder yields the files below it that end in one of `suffixes` (before a compression's ending); a glob and a plain path are
    taken as they are. Names that begin with a dot and the folders in `exclude` are left out. Raises DataError where a path
    matches nothing.
    """
    excluded = {path.resolve() for path in exclude}
    found: list[Path] = []
    for path in paths:
        matches = _matches(path, suffixes, excluded)
        if not matches:
            kinds = " or ".join(suffixes)
            what = "holds no file that ends in " + kinds if path.is_dir() else "no such file or folder"
            raise DataError(f"{path}: {what}")
        found.extend(matches)
    unique = sorted({path.resolve(): path for path in found}.values())
    base = _common_base(paths, unique)
    files = [InputFile(path, path.name if base is None else path.relative_to(base).as_posix()) for path in unique]
    return sorted(files, key=lambda file: file.name.encode("utf-8", "surrogateescape"))


def _matches(path: Path, suffixes: Sequence[str], excluded: set[Path]) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        return list(_walk(path, suffixes, excluded))
    if glob.has_magic(str(path)):
        return [Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file()]
    return []


def _walk(folder: Path, suffixes: Sequence[str], excluded: set[Path]) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = [
            name for name in folders if not name.startswith(".") and (Path(root) / name).resolve() not in excluded
        ]
        for name in names:
            if not name.startswith(".") and bare_suffix(name) in suffixes:
                yield Path(root) / name


def _common_base(paths: Sequence[Path], files: Sequence[Path]) -> Path | None:
    """Return the folder that names are relative to: the source's folder, the files' common parent, None for one file."""
    if len(paths) == 1 and paths[0].is_dir():
        return paths[0]
    if len(files) == 1:
        return None
    return Path(os.path.commonpath([path.parent for path in files]))
