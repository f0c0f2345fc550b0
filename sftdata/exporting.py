"""Exporting a build for another program: checked first, written beside its place, and there only when it is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sftdata import progress, storage
from sftdata.errors import DamagedError, DataError, RecipeError, suggest
from sftdata.exporters import EXPORTERS
from sftdata.exporters._job import Job
from sftdata.exporters.jsonl import FORMS
from sftdata.recipe import Recipe
from sftdata.run_record import RUN_FILE
from sftdata.sealing import read_sealed, sealed
from sftdata.shards import Shards, open_shards
from sftdata.views.verify import verify

EXPORT_FILE = "export.json"
DEFAULT_WORK_FOLDER = ".sftdata-work"


class Exported(NamedTuple):
    """A finished export."""

    folder: str
    to: str
    counts: dict[str, dict[str, int]]
    """Split → what was written and what was left out, as numbers."""
    notes: list[str]
    """What the user has to know or do."""
    files: list[dict[str, Any]]
    """Path, bytes and xxh3 of every file."""


def export(
    shards: str | Path,
    *,
    to: str,
    out: str | Path,
    form: str = "openai",
    work_dir: str | Path | None = None,
    allow_code: bool = False,
) -> Exported:
    """Write a build's data and a configuration for another program into a new folder.

    `to` is a name in `exporters.EXPORTERS`; `form` is how JSON Lines write dialogues, `openai` or `sharegpt`; `work_dir` is the
    build's work folder, from which JSON Lines take the texts. The same build gives the same bytes.

    Raises RecipeError for an unknown name, DataError where `out` is not empty or cannot be filled without loss, DamagedError
    for a build that is not sound.
    """
    if to not in EXPORTERS:
        raise RecipeError(f"--to {to}: unknown consumer{suggest(to, EXPORTERS)}")
    if form not in FORMS or (form != "openai" and to != "jsonl"):
        raise RecipeError(f"--form {form}: is {' or '.join(FORMS)}, and for --to jsonl alone")
    output = Path(out).resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output}: is not empty; name another folder with --out")
    opened = _sound(shards)
    with storage.lock(output):
        storage.recover(output)
        temporary = output.with_name(f".{output.name}.tmp-export")
        storage.remove_tree(temporary)
        storage.make_folder(temporary)
        try:
            exported = _fill(temporary, opened, to, form, _work_folder(opened, work_dir), allow_code)
            storage.publish(temporary, output)
        except BaseException:
            storage.remove_tree(temporary)
            raise
    return exported._replace(folder=str(output))


def _sound(shards: str | Path) -> Shards:
    """Return the build, which has passed the whole of `sftdata verify`."""
    progress.stage("verify", 1)
    found = verify(shards)
    if found.problems:
        raise DamagedError(f"{found.folder}: {found.problems[0]}; mend it with `sftdata repair` first")
    return open_shards(shards)


def _work_folder(shards: Shards, work_dir: str | Path | None) -> Path:
    if work_dir is not None:
        return Path(work_dir).absolute()
    recorded = Path(read_sealed(shards.folder / RUN_FILE).get("work_folder", ""))
    return recorded if recorded.is_absolute() and recorded.is_dir() else shards.folder.resolve().parent / DEFAULT_WORK_FOLDER


def _fill(folder: Path, shards: Shards, to: str, form: str, work_folder: Path, allow_code: bool) -> Exported:
    recipe = Recipe.model_validate(yaml.safe_load((shards.folder / "recipe.yaml").read_text(encoding="utf-8")))
    progress.stage(f"export to {to}", 1)
    outcome = EXPORTERS[to](Job(shards, folder, recipe, form, work_folder, allow_code))
    files = _list_files(folder)
    origin = {"name": shards.manifest["name"], "fingerprint": shards.manifest["fingerprint"], "to": to}
    storage.write_bytes(folder / EXPORT_FILE, sealed({**origin, "counts": outcome.counts, "files": files}))
    return Exported(str(folder), to, outcome.counts, outcome.notes, files)


def _list_files(folder: Path) -> list[dict[str, Any]]:
    """Return path, size and checksum of every file, by path."""
    paths = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.as_posix().encode())
    return [
        {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "xxh3": storage.file_digest(path)}
        for path in paths
    ]
