"""The record of a build's run: all that depends on the clock or the machine, and the checksum of the report."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sftdata import __version__, storage
from sftdata.errors import DamagedError
from sftdata.recipe_loader import Loaded
from sftdata.sealing import read_sealed, sealed

RUN_FILE = ".sftdata/run.json"
REPORT_FILE = "report.html"


def origin_of(loaded: Loaded, work_folder: Path, limit: int | None, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return where recipe and work folder lie on this machine, and what was left out: what a damaged build is repaired from."""
    name = str(Path(loaded.name).absolute())
    where = {"recipe": name, "recipe_folder": str(loaded.folder), "work_folder": str(work_folder)}
    return {**where, "limit": limit, "without": list(without)}


def describe_run(began: float, origin: dict[str, Any], **figures: Any) -> dict[str, Any]:
    """Return the record of a build that began at a time, in seconds since 1970, and has just ended."""
    return {
        "sftdata": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began, 3),
        **figures,
        **origin,
    }


def write_run_record(folder: Path, run: dict[str, Any], report: str) -> None:
    """Write the report page, and `run.json`, which seals itself and the report."""
    digest = storage.write_bytes(folder / REPORT_FILE, report.encode("utf-8"))
    storage.write_bytes(folder / RUN_FILE, sealed({**run, "report": digest}))


def damaged_record(folder: Path) -> Iterator[str]:
    """Yield `run.json` or the report where it is missing or damaged."""
    try:
        run = read_sealed(folder / RUN_FILE)
    except DamagedError:
        yield RUN_FILE
        return
    report = folder / REPORT_FILE
    if not report.is_file() or storage.file_digest(report) != run["report"]:
        yield REPORT_FILE
