"""The tokens of the work folder, mapped into memory record batch by record batch: where Gather copies from."""

from __future__ import annotations

from collections import Counter, OrderedDict
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
    first: Int32
    run_pairs: Int32
    run_first: Int32
    weight_pairs: Int32
    weight_first: Int32
    weight_values: npt.NDArray[np.float32]
    batch: pa.RecordBatch


MAX_OPEN_BATCHES = 8192
"""Record batches that are kept open, of 12 KB each, tokens aside, which are mapped: so many whatever the size of the build."""
BATCH_BITS = 20
"""A record batch is named by its part's number and, in so many low bits, its own number in the part."""


class TokenSources:
    """The record batches of all tokenized parts, opened when they are needed; those that were not used longest are closed."""

    def __init__(self, parts: list[Path]) -> None:
        self._parts = parts
        self._ends: dict[int, Int64] = {}
        self._open: OrderedDict[int, list[TokenSource]] = OrderedDict()
        self._num_open = 0
        self.cut_answers: Counter[str] = Counter()
        """Source → trained runs that go on after the end of the segment in which they begin."""

    def locate(self, part: Int32, item: Int32) -> tuple[Int64, Int32]:
        """Return, for rows `item` of parts, the name of their record batch and their row in it. All (n,)."""
        name = np.empty(len(part), dtype=np.int64)
        local = np.empty(len(part), dtype=np.int32)
        for mine in equal_places(part):
            number = int(part[mine[0]])
            if number not in self._ends:
                self._batches(number)
            ends = self._ends[number]
            batch = np.searchsorted(ends, item[mine], side="right")
            name[mine] = (number << BATCH_BITS) + batch
            local[mine] = item[mine] - np.append(0, ends)[batch]
        return name, local

    def __getitem__(self, name: int) -> TokenSource:
        """Return a record batch by the name that `locate` gave it."""
        return self._batches(name >> BATCH_BITS)[name & ((1 << BATCH_BITS) - 1)]

    def _batches(self, part: int) -> list[TokenSource]:
        if part not in self._open:
            batches = list(read_batches(self._parts[part] / TOKENIZED_FILE))
            self._ends.setdefault(part, np.cumsum([len(batch) for batch in batches], dtype=np.int64))
            self._open[part] = [_columns_of(batch) for batch in batches]
            self._num_open += len(batches)
            while self._num_open > MAX_OPEN_BATCHES and len(self._open) > 1:
                self._num_open -= len(self._open.popitem(last=False)[1])
        self._open.move_to_end(part)
        return self._open[part]


def _columns_of(batch: pa.RecordBatch) -> TokenSource:
    ids, first = _list_values(batch, "input_ids")
    run_pairs, run_first = _list_values(batch, "mask_runs")
    weight_pairs, weight_first = _list_values(batch, "weight_starts")
    weight_values, _ = _list_values(batch, "weight_values")
    return TokenSource(ids, first, run_pairs, run_first, weight_pairs, weight_first, weight_values, batch)


def _list_values(batch: pa.RecordBatch, name: str) -> tuple[npt.NDArray[Any], Int32]:
    column = batch.column(name)
    return column.values.to_numpy(), column.offsets.to_numpy()


def equal_places(numbers: npt.NDArray[np.integer[Any]]) -> list[Int64]:
    """Return the places of each number that occurs, one array a number."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []
