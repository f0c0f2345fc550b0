"""The tokenized rows as Plan knows them, and the ledger and counts of what Plan does to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sftdata.entries import TOKENIZED_FILE
from sftdata.tables import TableWriter, read_batches

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer[Any]]


class Rows(NamedTuple):
    """What Plan knows of every tokenized row, part after part: 18 bytes a row. All (n,) but part_ends, (num_parts,).

    trained: trained tokens that can be a target. identity: a hash of the content digest. weighted: a token has a weight other
    than 1. part_ends: where the rows of each part end.
    """

    part_ends: Int64
    length: Int32
    trained: Int32
    split: npt.NDArray[np.int8]
    identity: npt.NDArray[np.uint64]
    weighted: npt.NDArray[np.bool_]

    def locate(self, row: Integers) -> tuple[Int32, Int32]:
        """Return the part of rows, and their number in it. row: (m,)."""
        part = np.searchsorted(self.part_ends, row, side="right")
        return part.astype(np.int32), (row - np.append(0, self.part_ends)[part]).astype(np.int32)


class RowLog(NamedTuple):
    """Counts what happens to rows and writes it into the ledger. Every `row` is (m,), ascending; `why` is (step, reason)."""

    rows: Rows
    parts: Sequence[Path]
    ledger: TableWriter
    counts: Counter[str]

    def drop(self, row: Integers, why: tuple[str, str], length: Integers) -> None:
        """Drop rows. length: (m,) tokens that go with each."""
        reason = why[1]
        self.counts["dropped"] += len(row)
        self.counts[f"drop:{reason}"] += len(row)
        self.counts[f"drop_tokens:{reason}"] += int(length.sum())
        self._write(row, why[0], "drop", reason, [f"{tokens} tokens" for tokens in length.tolist()])

    def cut(self, row: Integers, why: tuple[str, str], length: Integers, num_cut: Integers, num_samples: Integers) -> None:
        """Cut `num_cut` of the `length` tokens of each row out, or split it into samples."""
        some = (num_cut > 0) | (num_samples > 1)
        self.counts["cut_rows"] += int(np.count_nonzero(some))
        self.counts["cut_tokens"] += int(num_cut.sum())
        columns = (column[some].tolist() for column in (num_cut, length, num_samples))
        evidence = [
            f"{cut} of {tokens} tokens cut" + (f", split into {samples}" if samples > 1 else "")
            for cut, tokens, samples in zip(*columns, strict=True)
        ]
        self._write(row[some], why[0], "cut", why[1], evidence)

    def repeat(self, row: Integers, length: Integers, num_copies: Integers) -> None:
        """Train rows more than once."""
        some = num_copies > 1
        self.counts["repeated_rows"] += int(np.count_nonzero(some))
        self.counts["repeated_tokens"] += int((length * np.maximum(num_copies - 1, 0)).sum())
        self._write(row[some], "mix", "repeat", "weighted", [f"{copies} copies" for copies in num_copies[some].tolist()])

    def names(self, row: Integers) -> tuple[pa.Array, pa.Array]:
        """Return source and id of rows."""
        pieces = []
        part, item = self.rows.locate(row)
        for number in np.unique(part).tolist():
            items = item[part == number]
            first = 0
            for batch in read_batches(self.parts[number] / TOKENIZED_FILE):
                local = items[slice(*np.searchsorted(items, (first, first + len(batch))))] - first
                pieces.append(batch.select(["source", "id"]).take(pa.array(local)))
                first += len(batch)
        table = pa.Table.from_batches(pieces)
        return table.column("source").combine_chunks(), table.column("id").combine_chunks()

    def _write(self, row: Integers, step: str, action: str, reason: str, evidence: Sequence[str]) -> None:
        if len(row):
            turn = pa.repeat(pa.scalar(-1, pa.int32()), len(row))
            what = [pa.repeat(text, len(row)) for text in ("plan", step, "", action, reason)]
            nothing = pa.repeat("", len(row))
            self.ledger.extend_columns([*self.names(row), turn, *what, pa.array(evidence), nothing, nothing])
