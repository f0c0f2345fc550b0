"""Cleaning the work folder: results that nothing uses are removed.

In use is what the last finished build of every recipe took, as the folder's history tells, and what the builds that lie beside
the work folder were made from. Where recipes are named, only they count, with what each would take if it were built now.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sftdata import storage
from sftdata.errors import DamagedError, DataError, LockedError, StorageError
from sftdata.origins import ORIGINS_FILE, read_origins
from sftdata.pipeline import STAGES, plan_build
from sftdata.places import WORK_FOLDER
from sftdata.recipe_loader import Loaded, load_recipe
from sftdata.sealing import read_sealed
from sftdata.shards import MANIFEST
from sftdata.work import fingerprint, remove_leftovers

DEFAULT = Path("shards") / WORK_FOLDER
HISTORY = "history"
ENTRY_NAME = re.compile(r"[0-9a-f]{32}")

Entry = tuple[str, str]
"""Stage and fingerprint."""


class StageSize(NamedTuple):
    """What a stage keeps in the work folder."""

    stage: str
    num_entries: int
    num_bytes: int
    num_unused: int
    unused_bytes: int
    """Bytes that the removal gives back: a shard that a build holds under a second name gives none."""


class Collected(NamedTuple):
    """The size of a work folder, by stage, before what is unused was removed."""

    work_folder: str
    stages: list[StageSize]
    dry_run: bool


def collect(
    work_dir: str | Path | None = None,
    recipes: Sequence[str | Path] = (),
    *,
    dry_run: bool = False,
    allow_code: bool = False,
) -> Collected:
    """Remove the results that nothing uses from a work folder; with `dry_run` only say what would go.

    The folder is `work_dir`, else that of the first recipe, else that of `shards/`. Raises DataError where there is none,
    LockedError while a build uses it, DamagedError where the history of a recipe cannot be read.
    """
    loaded = [load_recipe(recipe, allow_code=allow_code) for recipe in recipes]
    work = _work_folder(work_dir, loaded)
    with _alone(work):
        used = set(_used(work, loaded))
        found = [(stage, _size_of(stage, work / stage, used)) for stage in STAGES if (work / stage).is_dir()]
        if not dry_run:
            for stage, _ in found:
                for path in _entries(work / stage):
                    if (stage, path.name) not in used:
                        storage.remove_tree(path)
            remove_leftovers(work, of_all_machines=True)
    return Collected(str(work), [size for _, size in found], dry_run)


def _work_folder(work_dir: str | Path | None, recipes: Sequence[Loaded]) -> Path:
    if work_dir is not None:
        work = Path(work_dir)
    elif recipes and recipes[0].recipe.output:
        work = Path(recipes[0].recipe.output).resolve().parent / WORK_FOLDER
    else:
        work = DEFAULT
    if not any((work / stage).is_dir() for stage in STAGES):
        raise DataError(f"{work}: is no work folder; name it with --work-dir")
    return work.absolute()


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold the work folder while no build does; a build that begins meanwhile waits. Raises LockedError."""
    try:
        descriptor = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StorageError(f"{work}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(f"{work}: a build is using this folder; wait for it") from error
        yield
    finally:
        os.close(descriptor)


def _entries(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if ENTRY_NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield path


def _size_of(stage: str, folder: Path, used: set[Entry]) -> StageSize:
    sizes: list[tuple[bool, int, int]] = []
    for path in _entries(folder):
        found = [file.stat() for file in path.rglob("*") if file.is_file()]
        freed = sum(status.st_size for status in found if status.st_nlink == 1)
        sizes.append(((stage, path.name) not in used, sum(status.st_size for status in found), freed))
    unused = [freed for is_unused, _, freed in sizes if is_unused]
    return StageSize(stage, len(sizes), sum(size for _, size, _ in sizes), len(unused), sum(unused))


def _used(work: Path, recipes: Sequence[Loaded]) -> Iterator[Entry]:
    """Yield the entries that stay."""
    names = {loaded.recipe.name for loaded in recipes}
    for loaded in recipes:
        for task in plan_build(loaded, work_dir=work):
            yield task.stage, task.fingerprint
    for path in sorted((work / HISTORY).glob("*.json")):
        if not names or path.stem in names:
            yield from _history(path)
    for folder in sorted(path.parents[1] for path in work.parent.glob(f"*/{ORIGINS_FILE}")):
        if not names or _name_of(folder) in names:
            for stage, fingerprints in read_origins(folder).items():
                yield from ((stage, found) for found in fingerprints)


def _history(path: Path) -> Iterator[Entry]:
    """Yield the entries of the last finished build of a recipe: a fingerprint is made from what the history remembers."""
    try:
        history: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        found = [(key.partition(" ")[0], depends_on) for key, depends_on in history.items()]
        yield from [(stage, fingerprint({"stage": stage, **depends_on})) for stage, depends_on in found]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path}: cannot be read; build its recipe again, or remove the file") from error


def _name_of(folder: Path) -> str:
    name: str = read_sealed(folder / MANIFEST).get("name", "")
    return name
