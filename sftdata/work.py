"""The work folder: results of tasks under the fingerprint of all that they depend on.

Resume, cache and retry are one thing: a task whose entry exists and matches its checksums is done. An entry is a folder that
appears by a rename when it is complete; a damaged one is removed and made again.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import xxhash

from sftdata import storage
from sftdata.errors import DamagedError
from sftdata.shards import read_sealed, sealed

ENTRY = "entry.json"


def fingerprint(value: Any) -> str:
    """Return the xxh3-128 of a JSON value's canonical text, as 32 hexadecimal digits."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True)
class Task:
    """One pure task: what an executor hands to a worker. Data stays in files; this stays under a kilobyte of names and options."""

    stage: str
    name: str
    """What the user sees: the input part or the shard."""
    fingerprint: str
    work_folder: str
    spec: dict[str, Any]
    """JSON values: the arguments of the stage's body."""

    @property
    def entry(self) -> Path:
        """The folder of the task's result."""
        return Path(self.work_folder) / self.stage / self.fingerprint


def read_entry(folder: Path) -> dict[str, Any] | None:
    """Return the summary of a finished entry, or None where there is none or it is damaged."""
    try:
        entry = read_sealed(folder / ENTRY)
    except DamagedError:
        return None
    for name, (size, digest) in entry["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size or storage.file_digest(path) != digest:
            return None
    summary: dict[str, Any] = entry["summary"]
    return summary


def run_task(task: Task, body: Callable[[Path, dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Run `body(folder, spec)` unless the task's entry exists, and return the summary that the body returned.

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
        summary = body(temporary, task.spec)
        files = {
            path.relative_to(temporary).as_posix(): (path.stat().st_size, storage.file_digest(path))
            for path in sorted(temporary.rglob("*"))
            if path.is_file()
        }
        storage.write_bytes(temporary / ENTRY, sealed({"files": files, "summary": summary}), durable=False)
        storage.remove_tree(task.entry)
        storage.rename(temporary, task.entry, durable=False)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return summary


def remove_leftovers(work_folder: Path) -> None:
    """Remove the temporary folders that killed tasks left behind. Run under the build's lock."""
    for path in work_folder.glob("*/.*.tmp-*"):
        storage.remove_tree(path)


@cache
def code_fingerprint(module_name: str) -> str:
    """Return a digest of a module's source and of every project module that it imports, directly or not.

    A module from outside the project stands for itself alone, with its distribution's version where there is one.
    """
    digests = {name: _source_digest(name) for name in sorted(_reached(module_name))}
    return fingerprint(digests)


@cache
def _reached(module_name: str) -> frozenset[str]:
    project = module_name.partition(".")[0]
    found: set[str] = set()
    pending = [module_name]
    while pending:
        name = pending.pop()
        if name == project or name in found or not _source(name):
            continue  # the package itself only forwards names; to follow it would be to reach everything
        found.add(name)
        pending.extend(imported for imported in _imports(name) if imported.partition(".")[0] == project)
    return frozenset(found)


@cache
def _source(module_name: str) -> bytes:
    spec = importlib.util.find_spec(module_name)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return b""
    return Path(spec.origin).read_bytes()


def _source_digest(module_name: str) -> str:
    return xxhash.xxh3_128_hexdigest(_source(module_name))


def _imports(module_name: str) -> Iterable[str]:
    for node in ast.walk(ast.parse(_source(module_name))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if node.module.startswith("sftdata") and _is_module(name):
                    yield name


@cache
def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@cache
def library_version(distribution: str) -> str:
    """Return the installed version of a distribution, or `absent`."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
