"""The record of a build's run: all that depends on the clock or the machine, and the checksum of the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sftdata import storage
from sftdata.errors import DamagedError
from sftdata.shards import read_sealed, sealed

RUN_FILE = ".sftdata/run.json"
REPORT_FILE = "report.html"


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
