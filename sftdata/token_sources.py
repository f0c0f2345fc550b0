"""The tokens of the work folder, mapped into memory record batch by record batch: where Gather copies from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sftdata.entries import TOKENIZED_FILE
from sftdata.tables import read_batches

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class TokenSource(NamedTuple):
    """One record batch of a tokenized part, in memory-mapped columns: `first[i]` is where row i's tokens begin in `ids`."""

    ids: Int32
    first: Int64
    run_pairs: Int32
    run_first: Int64
    weight_pairs: Int32
    weight_first: Int64
    weight_values: npt.NDArray[np.float32]
    batch: pa.RecordBatch


class TokenSources:
    """The record batches of all tokenized parts, opened when they are first needed and numbered through."""

    def __init__(self, parts: list[Path]) -> None:
        self._parts = parts
        self._numbers: dict[int, tuple[Int64, int]] = {}
        self.opened: list[TokenSource] = []
        self.cut_answers: Counter[str] = Counter()
        """Source → trained runs that go on after the end of the segment in which they begin."""

    def locate(self, part: Int32, item: Int32) -> tuple[Int64, Int32]:
        """Return, for rows `item` of parts, the number of their record batch in `opened` and their row in it. All (n,)."""
        number = np.empty(len(part), dtype=np.int64)
        local = np.empty(len(part), dtype=np.int32)
        for mine in equal_places(part):
            ends, first_number = self._open(int(part[mine[0]]))
            batch = np.searchsorted(ends, item[mine], side="right")
            number[mine] = first_number + batch
            local[mine] = item[mine] - np.append(0, ends)[batch]
        return number, local

    def _open(self, part: int) -> tuple[Int64, int]:
        if part not in self._numbers:
            batches = list(read_batches(self._parts[part] / TOKENIZED_FILE))
            ends = np.cumsum([len(batch) for batch in batches], dtype=np.int64)
            self._numbers[part] = (ends, len(self.opened))
            self.opened.extend(map(_columns_of, batches))
        return self._numbers[part]


def _columns_of(batch: pa.RecordBatch) -> TokenSource:
    ids, first = _list_values(batch, "input_ids")
    run_pairs, run_first = _list_values(batch, "mask_runs")
    weight_pairs, weight_first = _list_values(batch, "weight_starts")
    weight_values, _ = _list_values(batch, "weight_values")
    return TokenSource(ids, first, run_pairs, run_first, weight_pairs, weight_first, weight_values, batch)


def _list_values(batch: pa.RecordBatch, name: str) -> tuple[npt.NDArray[Any], Int64]:
    column = batch.column(name)
    return column.values.to_numpy(), column.offsets.to_numpy().astype(np.int64)


def equal_places(numbers: npt.NDArray[np.integer[Any]]) -> list[Int64]:
    """Return the places of each number that occurs, one array a number."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []
