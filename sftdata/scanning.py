"""What goes into a build: the files of every source, with the digest of their bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sftdata import registry, storage, work
from sftdata.errors import DataError
from sftdata.recipe import Source
from sftdata.remote import copy_inputs, is_url
from sftdata.sources import InputFile, Piece, list_files


@dataclass(frozen=True)
class Part:
    """One input part: a file of a source, or a piece of a large one."""

    source: Source
    file: InputFile
    digest: str
    """xxh3-128 of the part's bytes."""
    file_digest: str
    """xxh3-128 of the whole file."""
    stamp: tuple[int, int]
    """(size, mtime in ns) when it was scanned: a file that changes during the build is noticed."""

    @property
    def read(self) -> work.Read:
        """What is read of the file, as it was when it was scanned."""
        start, length = self.file.piece[:2] if self.file.piece else (0, None)
        stamp = self.stamp if self.file.member else None
        return work.Read(str(self.file.path), start, length, self.digest, stamp)


def scan(
    sources: Sequence[Source], folder: Path, exclude: Sequence[Path], *, remote: Path | None = None, allow_code: bool = False
) -> list[Part]:
    """Return the parts of all sources, in the order given and, inside a source, of the files' names.

    `folder` is what the sources' paths are relative to; folders in `exclude` are not read; what URLs name is copied into
    `remote` first. Raises DataError where a path matches nothing or a file cannot be read.
    """
    parts: list[Part] = []
    seen: dict[Path, tuple[tuple[int, int], str]] = {}
    for source in sources:
        step = registry.find_step("ingestor", source.ingest.name, allow_code=allow_code)
        try:
            files = list_files([_locate(path, folder, remote) for path in source.path], step.suffixes, exclude)
        except DataError as error:
            raise DataError(f"source {source.name!r}: {error}") from error
        for file in files:
            if file.path not in seen:  # every member of an archive lies in the same file
                seen[file.path] = storage.stamp(file.path), storage.file_digest(file.path)
            parts.extend(_parts(source, file, step, *seen[file.path]))
    return parts


def _locate(path: str, folder: Path, remote: Path | None) -> Path:
    if not is_url(path):
        return folder / Path(path).expanduser()
    if remote is None:
        raise DataError(f"{path}: is copied by builds only; name a path here")
    return copy_inputs(path, remote)


def _parts(source: Source, file: InputFile, step: registry.Step, stamp: tuple[int, int], digest: str) -> Iterator[Part]:
    pieces: list[Piece] = step.pieces(file, **source.ingest.options) if step.pieces else []
    for piece in pieces:
        part_digest = storage.file_digest(file.path, piece.start, piece.length)
        yield Part(source, replace(file, piece=piece), part_digest, digest, stamp)
    if not pieces:
        yield Part(source, file, digest, digest, stamp)


def describe_files(parts: Sequence[Part], summaries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return name, size, checksum and counts of every file of one source, the counts of its parts added up."""
    files: dict[str, dict[str, Any]] = {}
    for part, summary in zip(parts, summaries, strict=True):
        found = {"name": part.file.name, "bytes": part.stamp[0], "xxh3": part.file_digest, "records": 0, "quarantined": 0}
        entry = files.setdefault(part.file.name, found)
        layout = part.file.piece.layout if part.file.piece else summary.get("layout")
        if layout:
            entry["layout"] = layout
        for name in ("records", "quarantined"):
            entry[name] += summary["counts"].get(name, 0)
    return list(files.values())


def check_unchanged(parts: Sequence[Part]) -> None:
    """Raise DataError for an input file that changed since it was scanned."""
    whole = {part.file.path: work.Read(str(part.file.path), 0, None, part.file_digest, part.stamp) for part in parts}
    work.check_unchanged(whole.values())
