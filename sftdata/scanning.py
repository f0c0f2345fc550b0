"""What goes into a build: the files of every source, with the digest of their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sftdata import progress, registry, storage, work
from sftdata.errors import DamagedInputError, DataError
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


class Listed(NamedTuple):
    """One file of a source, not read yet."""

    source: Source
    file: InputFile
    allow_code: bool

    def task(self) -> work.Task:
        """Return what `look_at` is asked to do: to hash the file, and to cut it where it is large."""
        where = {"path": str(self.file.path), "name": self.file.name, "member": self.file.member}
        spec = {**where, "ingest": [self.source.ingest.name, self.source.ingest.options], "allow_code": self.allow_code}
        return work.Task("scan", self.file.place, "", "", spec)


class Mapping(Protocol):
    """What runs a function on tasks: an executor."""

    def map(self, function: Callable[[work.Task], dict[str, Any]], tasks: Iterable[work.Task]) -> Iterable[dict[str, Any]]:
        """Yield the result of each task, in the order of the tasks."""


WORTH_SHARING = 256 << 20
"""Bytes of input from which on starting workers to hash it pays: two or three seconds of one core."""


def list_inputs(
    sources: Sequence[Source], folder: Path, exclude: Sequence[Path], *, remote: Path | None = None, allow_code: bool = False
) -> list[Listed]:
    """Return the files of all sources, in the order given and, inside a source, of the files' names.

    `folder` is what the sources' paths are relative to; folders in `exclude` are not read; what URLs name is copied into
    `remote` first. Raises DataError where a path matches nothing or a file cannot be read.
    """
    listed: list[Listed] = []
    for source in sources:
        step = registry.find_step("ingestor", source.ingest.name, allow_code=allow_code)
        try:
            files = _files(source, step, folder, exclude, remote)
        except DataError as error:
            raise DataError(f"source {source.name!r}: {error}") from error
        listed.extend(Listed(source, file, allow_code) for file in files)
    return listed


def num_bytes(listed: Sequence[Listed]) -> int:
    """Return the size of all files together, each counted once."""
    return sum(storage.stamp(path)[0] for path in {item.file.path for item in listed})


def scan(listed: Sequence[Listed], workplace: Mapping) -> list[Part]:
    """Return the parts of the files, in their order: every file is hashed, and a large one cut into pieces.

    A large input is looked at where `workplace` runs tasks. Raises DataError for a file that cannot be read.
    """
    first = {item.file.path: item for item in reversed(listed)}  # every member of an archive lies in the same file
    wanted = [item for item in listed if item.file.member is None or first[item.file.path] is item]
    tasks = [item.task() for item in wanted]
    found = workplace.map(look_at, tasks) if num_bytes(listed) >= WORTH_SHARING else map(look_at, tasks)
    looks = {id(item): look for item, look in zip(wanted, found, strict=True)}
    parts: list[Part] = []
    for item in listed:
        look = looks.get(id(item)) or looks[id(first[item.file.path])]
        parts.extend(_parts(item, look))
    return parts


def look_at(task: work.Task) -> dict[str, Any]:
    """Return stamp and digest of a file, and the pieces that it is read in, each with its digest: of a file of its own only."""
    spec = task.spec
    file = InputFile(Path(spec["path"]), spec["name"], member=spec["member"])
    found: dict[str, Any] = {"stamp": storage.stamp(file.path), "digest": storage.file_digest(file.path), "pieces": []}
    name, options = spec["ingest"]
    step = registry.find_step("ingestor", name, allow_code=spec["allow_code"])
    if step.pieces and file.member is None:
        pieces: list[Piece] = []
        with suppress(DamagedInputError):  # read in one go, it is met again and quarantined
            pieces = step.pieces(file, **options)
        found["pieces"] = [(piece, storage.file_digest(file.path, piece.start, piece.length)) for piece in pieces]
    progress.tick(0)
    return found


def _files(
    source: Source, step: registry.Step, folder: Path, exclude: Sequence[Path], remote: Path | None
) -> list[InputFile]:
    """Return the files of a source; what only the ingestor knows how to reach is copied into a file first."""
    claimed = [path for path in source.path if path.startswith(step.addresses) or (step.fetch and not step.suffixes)]
    if not claimed:
        return list_files([_locate(path, folder, remote) for path in source.path], step.suffixes, exclude)
    if len(source.path) > 1:
        raise DataError(f"{claimed[0]}: stands alone; give every dataset or database a source of its own")
    [address] = claimed
    if remote is None:
        raise DataError(f"{address}: is copied by builds only; name a path here")
    if not address.startswith(step.addresses):
        address = str((folder / Path(address).expanduser()).resolve())
    return list_files([_snapshot(step, address, source.ingest.options, remote)], ())


def _snapshot(step: registry.Step, address: str, options: dict[str, Any], remote: Path) -> Path:
    """Return a copy of what an address names now; it lies under the digest of its bytes, and the same is kept once."""
    assert step.fetch is not None
    temporary = storage.temporary_name(remote / "copy")
    storage.remove_tree(temporary)
    storage.make_folder(temporary)
    try:
        with storage.in_use(temporary):
            step.fetch(address, temporary, **options)
            [copied] = [path for path in temporary.iterdir() if path.is_file()]
            kept = remote / storage.file_digest(copied)
            if not (kept / copied.name).is_file():
                storage.make_folder(kept)
                storage.rename(copied, kept / copied.name)
            return kept / copied.name
    finally:
        storage.remove_tree(temporary)


def _locate(path: str, folder: Path, remote: Path | None) -> Path:
    owner = next((name for name, step in registry.known_steps("ingestor").items() if path.startswith(step.addresses)), None)
    if owner is not None:
        raise DataError(f"{path}: is read by the ingestor {owner!r} alone")
    if not is_url(path):
        return folder / Path(path).expanduser()
    if remote is None:
        raise DataError(f"{path}: is copied by builds only; name a path here")
    return copy_inputs(path, remote)


def _parts(item: Listed, look: dict[str, Any]) -> Iterator[Part]:
    stamp, digest = tuple(look["stamp"]), look["digest"]
    for piece, part_digest in look["pieces"]:
        yield Part(item.source, replace(item.file, piece=piece), part_digest, digest, stamp)
    if not look["pieces"]:
        yield Part(item.source, item.file, digest, digest, stamp)


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
