"""The items that a step of deduplication compares, as columns in files: read in order, or some of them by number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sftdata.tables import read_batches

Int64 = npt.NDArray[np.int64]


class Items:
    """Rows of one Arrow stream a part, numbered over all parts; each stands for a row of the build, or for a turn of one.

    A column `row` holds the number of the row in its part; without it, the n-th item is the n-th row.
    """

    def __init__(self, files: Sequence[Path], part_rows: Sequence[int]) -> None:
        self._batches: list[pa.RecordBatch] = []
        first_rows = []
        starts = [0]
        for path, first in zip(files, np.cumsum([0, *part_rows])[:-1].tolist(), strict=True):
            done = 0
            for batch in read_batches(path):
                self._batches.append(batch)
                first_rows.append(first if "row" in batch.schema.names else first + done)
                starts.append(starts[-1] + len(batch))
                done += len(batch)
        self._first_rows = np.array(first_rows, dtype=np.int64)
        self._starts = np.array(starts, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def scan(self, *columns: str) -> Iterator[tuple[int, Int64, list[Any]]]:
        """Yield, batch by batch, the number of the first item, the row of each, and the columns."""
        for number, batch in enumerate(self._batches):
            yield int(self._starts[number]), self._rows_of(number), [batch.column(name) for name in columns]

    def _rows_of(self, number: int) -> Int64:
        batch, first = self._batches[number], int(self._first_rows[number])
        if "row" not in batch.schema.names:
            return np.arange(first, first + len(batch), dtype=np.int64)
        rows: Int64 = batch.column("row").to_numpy().astype(np.int64) + first
        return rows

    def _pieces(self, items: Int64) -> Iterator[tuple[int, slice, Int64]]:
        """Yield the batches in which items lie, with the places of those among `items` and their numbers in the batch."""
        number = np.searchsorted(self._starts, items, side="right") - 1
        borders = np.flatnonzero(np.diff(number, prepend=-1, append=-1))
        for first, last in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
            batch = int(number[first])
            yield batch, slice(first, last), items[first:last] - self._starts[batch]

    def rows(self, items: Int64) -> Int64:
        """Return the row of each item. items: (m,), best ascending."""
        found = np.empty(len(items), dtype=np.int64)
        for batch, places, local in self._pieces(items):
            found[places] = self._rows_of(batch)[local]
        return found

    def take(self, column: str, items: Int64) -> list[Any]:
        """Return the values of a column of each item. items: (m,), best ascending."""
        values: list[Any] = []
        for batch, _, local in self._pieces(items):
            values.extend(self._batches[batch].column(column).take(pa.array(local)).to_pylist())
        return values

    def numbers(self, column: str, items: Int64) -> npt.NDArray[np.float64]:
        """Return the values of a column of numbers, (m,); NaN where there is none."""
        found = np.empty(len(items), dtype=np.float64)
        for batch, places, local in self._pieces(items):
            found[places] = self._batches[batch].column(column).to_numpy(zero_copy_only=False)[local]
        return found

    def set_sizes(self, items: Int64) -> Int64:
        """Return how many members the set of each item has, (m,)."""
        order = np.argsort(items, kind="stable")
        found = np.empty(len(items), dtype=np.int64)
        for batch, places, local in self._pieces(items[order]):
            offsets = self._batches[batch].column("shingles").offsets.to_numpy()
            found[order[places]] = offsets[local + 1] - offsets[local]
        return found

    def sets(self, items: Int64) -> tuple[npt.NDArray[np.uint32], Int64]:
        """Return the members of the sets of items, (m,) ascending, one set after the other, and the (m + 1,) offsets."""
        values = [np.zeros(0, dtype=np.uint32)]
        sizes = [np.zeros(1, dtype=np.int64)]
        for batch, _, local in self._pieces(items):
            taken = self._batches[batch].column("shingles").take(pa.array(local))
            values.append(taken.flatten().to_numpy())
            sizes.append(np.diff(taken.offsets.to_numpy()).astype(np.int64))
        return np.concatenate(values), np.cumsum(np.concatenate(sizes))


def digest_words(column: Any) -> npt.NDArray[np.uint64]:
    """Return a column of 16-byte digests as numbers, (n, 2)."""
    data = np.frombuffer(column.buffers()[1], dtype="<u8").reshape(-1, 2)
    return data[column.offset : column.offset + len(column)].astype(np.uint64)
