"""Which results of the work folder a build was made from: `.sftdata/work.json` in the folder of the build.

The shards hold tokens; the texts that they were made from lie in the work folder, under the fingerprints that stand here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from sftdata import storage
from sftdata.errors import DamagedError

ORIGINS_FILE = ".sftdata/work.json"

Origins = dict[str, list[str]]
"""Stage → fingerprints of its tasks, in the order of parts or shards."""


def write_origins(folder: Path, origins: Mapping[str, Iterable[str]]) -> None:
    """Write the fingerprints of the tasks of a build, stage by stage."""
    storage.write_json(folder / ORIGINS_FILE, {stage: list(fingerprints) for stage, fingerprints in origins.items()})


def read_origins(folder: Path) -> Origins:
    """Return the fingerprints of the tasks of a build, stage by stage. Raises DamagedError."""
    path = folder / ORIGINS_FILE
    try:
        origins: Origins = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: missing; build the folder anew") from error
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path}: cannot be read: {error}") from error
    return origins
