"""The work folder: results of tasks under the fingerprint of all that they depend on.

Resume, cache and retry are one thing: a task whose entry exists and matches its checksums is done. An entry is a folder that
appears by a rename when it is complete; a damaged one is removed and made again.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import glob
import importlib.metadata
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from sftdata import storage
from sftdata.errors import DamagedError, DataError, RecipeError, StorageError
from sftdata.sealing import read_sealed, sealed

ENTRY = "entry.json"


def fingerprint(value: Any) -> str:
    """Return the xxh3-128 of a JSON value's canonical text, as 32 hexadecimal digits.

    Besides JSON, paths and sets are taken. Raises TypeError for a value without a text that is the same in every process.
    """
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=_plain)
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=repr)
    raise TypeError(f"{type(value).__name__} cannot be part of a fingerprint")


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Look for cycles of dead objects less often: records are many small objects without any. Saves 15 % of a build."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Read(NamedTuple):
    """What a task reads outside of the work folder: a file, or `length` bytes of it from `start`."""

    path: str
    start: int
    length: int | None
    digest: str
    """xxh3-128 of these bytes, when the build began."""
    stamp: tuple[int, int] | None = None
    """(size, mtime in ns) of an archive: where they are the same, it is not hashed once more for each of its members."""

    @classmethod
    def whole(cls, path: Path, digest: str) -> Read:
        """Return a whole file."""
        return cls(str(path), 0, None, digest)


@dataclass(frozen=True)
class Task:
    """One pure task: what an executor hands to a worker. Data stays in files; this is under a kilobyte of names and options."""

    stage: str
    name: str
    """What the user sees: the input part or the shard."""
    fingerprint: str
    work_folder: str
    spec: dict[str, Any]
    """JSON values: the arguments of the stage's body."""
    reads: tuple[Read, ...] = ()
    """The result is kept only where these bytes are still the same when the task is done."""

    @property
    def entry(self) -> Path:
        """The folder of the task's result."""
        return Path(f"{self.work_folder}/{self.stage}/{self.fingerprint}")


def read_entry(folder: Path) -> dict[str, Any] | None:
    """Return the summary of a finished entry, or None where there is none or it is damaged."""
    try:
        entry = read_sealed(folder / ENTRY)
    except DamagedError:
        return None
    if not all(storage.has_digest(f"{folder}/{name}", *found) for name, found in entry["files"].items()):
        return None
    summary: dict[str, Any] = entry["summary"]
    return summary


def read_entries(folders: Sequence[Path], num_threads: int) -> list[dict[str, Any] | None]:
    """Return what `read_entry` says of each folder, hashing in so many threads, which run beside each other."""
    if num_threads == 1 or len(folders) == 1:
        return list(map(read_entry, folders))
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(read_entry, folders))


def run_task(task: Task, body: Callable[[Path, dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Run `body(folder, spec)` unless the task's entry exists, and return the summary that the body returned, as JSON keeps it.

    The body writes its files into `folder`; they are published together.
    """
    done = read_entry(task.entry)
    if done is not None:
        return done
    storage.make_folder(task.entry.parent)
    temporary = storage.temporary_name(task.entry)
    storage.remove_tree(temporary)
    storage.make_folder(temporary)
    try:
        with storage.in_use(temporary), _rare_collections():
            summary = body(temporary, task.spec)
            check_unchanged(task.reads)
            data = sealed({"files": _list_files(temporary), "summary": summary})
            storage.write_bytes(temporary / ENTRY, data, durable=False)
            _publish(temporary, task.entry)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    kept: dict[str, Any] = json.loads(data)["summary"]
    return kept


def check_unchanged(reads: Iterable[Read]) -> None:
    """Raise DataError for bytes that are no longer what they were when the build began."""
    for read in map(Read._make, reads):
        try:
            same = read.stamp is not None and storage.stamp(Path(read.path)) == tuple(read.stamp)
            same = same or storage.file_digest(read.path, read.start, read.length) == read.digest
        except StorageError:
            same = False
        if not same:
            raise DataError(f"{read.path}: changed while it was read; run the build again")


def _list_files(folder: Path) -> dict[str, tuple[int, str]]:
    """Return size and checksum of every file by its name."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, storage.file_digest(path)) for path in paths}


def _publish(temporary: Path, entry: Path) -> None:
    """Put a finished folder in the entry's place, unless another build that shares the work folder was faster."""
    if entry.exists() and read_entry(entry) is None:
        storage.remove_tree(entry)
    try:
        storage.rename(temporary, entry, durable=False)
    except StorageError:
        if read_entry(entry) is None:
            raise
        storage.remove_tree(temporary)


def remove_leftovers(work_folder: Path, *, of_all_machines: bool = False) -> None:
    """Remove what killed builds and tasks were writing; what a living one is writing stays.

    So does what other machines write, unless told otherwise: neither their locks nor their processes may be seen from here.
    """
    whose = "*" if of_all_machines else f"{glob.escape(os.uname().nodename)}-*"
    for path in map(Path, glob.glob(f"{glob.escape(str(work_folder))}/*/.*.tmp-{whose}")):
        if not (storage.is_in_use(path) if path.is_dir() else _is_running(path.name.rpartition("-")[2])):
            storage.remove_tree(path)


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass  # it runs for someone else
    return True


@contextmanager
def without_leftovers(work_folder: Path) -> Iterator[None]:
    """Remove leftovers before the block and after it, however it ends: also those of its own workers that were killed."""
    remove_leftovers(work_folder)
    try:
        yield
    finally:
        with contextlib.suppress(StorageError):  # the next build tries again
            remove_leftovers(work_folder)


FORWARDS_NAMES = "sftdata"
"""The one package that is not followed: it only forwards names, and to follow it would be to reach everything."""


@cache
def code_fingerprint(module_name: str) -> str:
    """Return a digest of a module's source and of all modules of the same top-level package that it imports, directly or not.

    Raises RecipeError for the main script or a notebook, whose code neither a fingerprint nor a worker process can reach.
    """
    if module_name == "__main__":
        raise RecipeError("the step is defined in the main script or a notebook; put it into a module and import that")
    return fingerprint({name: xxhash.xxh3_128_hexdigest(_source(name)) for name in sorted(_reached(module_name))})


def _reached(module_name: str) -> set[str]:
    project = module_name.partition(".")[0]
    found: set[str] = set()
    pending = [module_name]
    while pending:
        name = pending.pop()
        if name in found or name == FORWARDS_NAMES or name.partition(".")[0] != project or not _source(name):
            continue
        found.add(name)
        pending.extend(_imports(name))
        pending.append(name.rpartition(".")[0])
    return found


@cache
def _spec(module_name: str) -> ModuleSpec | None:
    """Return where a module lies, without importing it or the packages that it is in; None where there is no such module."""
    package = module_name.rpartition(".")[0]
    if not package:
        return importlib.util.find_spec(module_name) if module_name else None
    parent = _spec(package)
    if parent is None or parent.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(module_name, parent.submodule_search_locations)


@cache
def _source(module_name: str) -> bytes:
    spec = _spec(module_name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return b""
    return Path(spec.origin).read_bytes()


def _statements(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield statements with those inside of them; expressions, which hold no import, are most of a tree."""
    for node in nodes:
        yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from _statements(getattr(node, block, ()))


@cache
def _imports(module_name: str) -> frozenset[str]:
    """Return the names that a module's imports may mean: modules, and the names taken from them, which may be modules too."""
    spec = _spec(module_name)
    is_package = spec is not None and spec.submodule_search_locations is not None
    package = module_name if is_package else module_name.rpartition(".")[0]
    names: set[str] = set()
    for node in _statements(ast.parse(_source(module_name)).body):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            with contextlib.suppress(ImportError):  # points out of its package: it fails where the module runs, not here
                origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                names.update((origin, *(f"{origin}.{alias.name}" for alias in node.names)))
    return frozenset(names)


@cache
def library_version(distribution: str) -> str:
    """Return the installed version of a distribution, or `absent`."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
