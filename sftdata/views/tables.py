"""Reading the side tables of a build: lineage, ledger and quarantine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sftdata.errors import DamagedError
from sftdata.shards import Shards

LINEAGE_TABLE, LEDGER_TABLE, QUARANTINE_TABLE = "lineage", "ledger", "quarantine"

Condition = tuple[str, str, Any]


def side_table(shards: Shards, table: str) -> Path:
    """Return the path of a side table."""
    return shards.folder / ".sftdata" / f"{table}.parquet"


def read_rows(shards: Shards, table: str, conditions: list[Condition] | None = None) -> list[dict[str, Any]]:
    """Return the rows of a side table for which all conditions hold, in their order. Raises DamagedError."""
    path = side_table(shards, table)
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, filters=conditions, partitioning=None).to_pylist()
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    return rows


def stream_rows(shards: Shards, table: str, columns: list[str]) -> Iterator[Any]:
    """Yield record batches of some columns of a side table. Raises DamagedError."""
    path = side_table(shards, table)
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(columns=columns)
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
