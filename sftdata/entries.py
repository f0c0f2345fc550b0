"""The files that stages leave for each other in the work folder: their names, and readers that several stages share.

Stages import this module and never each other.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sftdata.tables import read_batches

LEDGER_FILE, QUARANTINE_FILE = "ledger.arrow", "quarantine.arrow"
DOCUMENTS_FILE, KEYS_FILE = "documents.arrow", "keys.arrow"
"""Of Prepare: the documents, and row for row beside them what Resolve needs of each."""
TOKENIZED_FILE = "tokenized.arrow"
PARTS_FILE = "parts.json"
"""Of Plan: the entries of the tokenized parts, relative to the work folder; a plan names a part by its place in it."""
SHARD_FILE, LINEAGE_FILE = "shard.arrow", "lineage.arrow"


def signed_name(number: int) -> str:
    """Return the name of the file that holds Sign's digests and signatures of a part under one kind of settings."""
    return f"signed-{number}.arrow"


def decisions_name(part: int) -> str:
    """Return the name of the file that holds Resolve's decisions on a part's rows."""
    return f"part-{part:06d}.arrow"


def read_decisions(folder: Path, part: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int8]]:
    """Return (keep, split) of a part's rows: whether each stays, and the number of its split in `schemas.SPLITS`."""
    batches = list(read_batches(folder / decisions_name(part)))
    if not batches:
        return np.zeros(0, dtype=bool), np.zeros(0, dtype=np.int8)
    table = pa.Table.from_batches(batches)
    return table.column("keep").to_numpy(zero_copy_only=False), table.column("split").to_numpy()


def read_marks(folder: Path, part: int) -> pa.ChunkedArray:
    """Return the marks that Resolve gives the rows of a part: JSON as in DOCUMENT, or null."""
    columns = [batch.column("marks") for batch in read_batches(folder / decisions_name(part))]
    return pa.chunked_array(columns, type=pa.string())


def plan_name(split: str) -> str:
    """Return the name of the file that holds a split's plan."""
    return f"{split}.arrow"


def read_parts(plan_folder: Path, work_folder: Path) -> list[Path]:
    """Return the folders of the tokenized parts that a plan speaks of."""
    return [work_folder / name for name in json.loads((plan_folder / PARTS_FILE).read_text(encoding="utf-8"))]
