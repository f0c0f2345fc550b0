"""Repairing a damaged build: its recipe is built again from the work folder where that is whole, and must give the same bytes.

A shard is one file under two names, one in the build and one in the work folder: where its bytes changed, both names see it,
and the shard is gathered again. What is whole is taken as it is. Nothing is replaced before all is known to be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sftdata import storage
from sftdata.errors import DamagedError, DataError
from sftdata.pipeline import build
from sftdata.recipe_loader import Loaded, load_recipe
from sftdata.run_record import REPORT_FILE, RUN_FILE, damaged_record
from sftdata.sealing import read_sealed
from sftdata.shards import MANIFEST, find_build, open_shards
from sftdata.views.verify import verify

RECIPE_FILE = "recipe.yaml"
OUTSIDE = (MANIFEST, RUN_FILE, REPORT_FILE)


class Repaired(NamedTuple):
    """What a repair did."""

    folder: str
    damaged: list[str]
    """The files that were missing or did not match their checksums; all of them are whole now."""
    num_tasks: int
    num_reused: int
    """Tasks whose result lay in the work folder, undamaged."""


def repair(
    shards: str | Path,
    *,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    work_dir: str | Path | None = None,
    workers: int | None = None,
    allow_code: bool = False,
) -> Repaired:
    """Make a damaged build whole again, byte for byte as its manifest says.

    Recipe and work folder are those of the build, which `run.json` names; `recipe`, `overrides` and `work_dir` take their place
    where that is damaged or they were moved. Raises DamagedError where the same bytes cannot be made again, since an input, the
    recipe or the code is another one; the folder is then as it was.
    """
    folder = find_build(Path(shards))
    damaged = list_damaged(folder)
    if not damaged:
        _refuse_unsound(folder)
        return Repaired(str(folder), [], 0, 0)
    run = _run_record(folder)
    loaded = _recipe_of(folder, run, damaged, recipe, overrides, allow_code)
    result = build(
        loaded,
        out=folder,
        work_dir=work_dir or run.get("work_folder"),
        workers=workers,
        limit=run.get("limit"),
        without=run.get("without", ()),
        accept=_same_as(folder, damaged),
    )
    _refuse_unsound(folder)
    return Repaired(str(folder), damaged, result.num_tasks, result.num_reused)


def list_damaged(folder: Path) -> list[str]:
    """Return the files of a build that are missing or do not match their checksums; `manifest.json` where it is itself damaged.

    Raises DataError where other files lie in the folder, which a repair would remove.
    """
    try:
        opened = open_shards(folder)
    except DamagedError:
        return [MANIFEST, *damaged_record(folder)]
    known = {entry["path"] for entry in opened.manifest["files"]} | set(OUTSIDE)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in known:
            raise DataError(f"{path}: is not part of the build; move it away first")
    return [*opened.damaged_files(), *damaged_record(folder)]


def _run_record(folder: Path) -> dict[str, Any]:
    try:
        return read_sealed(folder / RUN_FILE)
    except DamagedError:
        return {}


def _recipe_of(
    folder: Path, run: dict[str, Any], damaged: list[str], recipe: str | Path | None, overrides: Sequence[str], allow_code: bool
) -> Loaded:
    """Return the recipe that is given, else the resolved one in the folder, else the file that it was built from."""
    if recipe is not None:
        return load_recipe(recipe, overrides=overrides, allow_code=allow_code)
    if "recipe_folder" not in run:
        raise DamagedError(f"{folder / RUN_FILE}: damaged, so nobody knows where the recipe lies; name it with --recipe")
    if RECIPE_FILE in damaged or MANIFEST in damaged:
        return load_recipe(run["recipe"], overrides=overrides, allow_code=allow_code)
    loaded = load_recipe(folder / RECIPE_FILE, overrides=overrides, folder=run["recipe_folder"], allow_code=allow_code)
    return Loaded(loaded.recipe, loaded.folder, run["recipe"], allow_code=allow_code)


def _same_as(folder: Path, damaged: list[str]) -> Callable[[dict[str, Any]], None]:
    """Return what raises DamagedError for a manifest other than the folder's.

    Where the manifest itself is damaged, every other file has to match the new one.
    """

    def check(manifest: dict[str, Any]) -> None:
        if MANIFEST in damaged:
            differing = [
                entry["path"] for entry in manifest["files"] if _digest(folder / entry["path"]) != entry["xxh3"]
            ]
        else:
            before = read_sealed(folder / MANIFEST)
            differing = [name for name in before if name not in ("xxh3", "files") and before[name] != manifest.get(name)]
            differing += _differing_files(before["files"], manifest["files"])
        if differing:
            raise DamagedError(
                f"{folder}: cannot be repaired: the recipe gives another build now ({', '.join(differing[:3])}); "
                "bring back its inputs and version, or build it anew with `sftdata build`"
            )

    return check


def _differing_files(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[str]:
    old, new = ({entry["path"]: entry for entry in entries} for entries in (before, after))
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def _digest(path: Path) -> str:
    return storage.file_digest(path) if path.is_file() else ""


def _refuse_unsound(folder: Path) -> None:
    problems = verify(folder).problems
    if problems:
        raise DamagedError(f"{folder}: no file is damaged, but {problems[0]}; a repair cannot mend that, build it anew")
