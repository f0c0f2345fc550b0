"""What goes into a build: the files of every source, with the digest of their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sftdata import registry, storage
from sftdata.errors import DataError
from sftdata.recipe import Source
from sftdata.sources import InputFile, list_files


@dataclass(frozen=True)
class Part:
    """One input part: a file of a source."""

    source: Source
    file: InputFile
    digest: str
    """xxh3-128 of the file's bytes."""
    stamp: tuple[int, int]
    """(size, mtime in ns) when it was scanned: a file that changes during the build is noticed."""


def scan(sources: Sequence[Source], folder: Path, exclude: Sequence[Path], *, allow_code: bool = False) -> list[Part]:
    """Return the parts of all sources, in the order given and, inside a source, of the files' names.

    `folder` is what the sources' paths are relative to; folders in `exclude` are not read. Raises DataError where a path
    matches nothing or a file cannot be read.
    """
    parts = []
    for source in sources:
        step = registry.find_step("ingestor", source.ingest.name, allow_code=allow_code)
        paths = [folder / Path(path).expanduser() for path in source.path]
        try:
            files = list_files(paths, step.suffixes, exclude)
        except DataError as error:
            raise DataError(f"source {source.name!r}: {error}") from error
        for file in files:
            parts.append(Part(source, file, storage.file_digest(file.path), _stamp(file.path)))
    return parts


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def check_unchanged(parts: Sequence[Part]) -> None:
    """Raise DataError for an input file that changed since it was scanned."""
    for part in parts:
        try:
            changed = _stamp(part.file.path) != part.stamp
        except OSError:
            changed = True
        if changed and (not part.file.path.is_file() or storage.file_digest(part.file.path) != part.digest):
            raise DataError(f"{part.file.path}: changed while it was read; run the build again")
