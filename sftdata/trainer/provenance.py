"""Where the documents of a row came from, by the lineage that the build wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

LINEAGE_FILE = Path(".sftdata", "lineage.parquet")

Origin = tuple[str, str]
"""(source, id) of a raw record."""


def origins(shards_folder: Path, split: str, rows: Sequence[int] | None = None) -> dict[tuple[int, int], Origin]:
    """Return (row, segment) → (source, id) of a split, or of some of its rows; empty where the build has no lineage."""
    path = shards_folder / LINEAGE_FILE
    if not path.is_file():
        return {}
    filters: list[tuple[str, str, object]] = [("split", "=", split)]
    if rows is not None:
        filters.append(("row", "in", list(rows)))
    table = pq.read_table(path, columns=["row", "segment", "source", "id"], filters=filters)
    found: dict[tuple[int, int], Origin] = {}
    columns = (table.column(name).to_pylist() for name in ("row", "segment", "source", "id"))
    for row, segment, source, identifier in zip(*columns, strict=True):
        found.setdefault((row, segment), (source, identifier))
    return found


def named_rows(shards_folder: Path, rows: Sequence[int]) -> list[str]:
    """Return `row 12 (faq faq.csv#3, chats chats.sql#t/1)` for rows of the train split."""
    by_row: dict[int, list[str]] = {row: [] for row in rows}
    for (row, _), (source, identifier) in sorted(origins(shards_folder, "train", rows).items()):
        by_row[row].append(f"{source} {identifier}")
    return [f"row {row} ({', '.join(found)})" if found else f"row {row}" for row, found in by_row.items()]
