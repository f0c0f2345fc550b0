"""The tokens of the work folder, mapped into memory part by part: where Gather copies from."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sftdata.entries import TOKENIZED_FILE
from sftdata.tables import map_batches

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer[Any]]


class Lists(NamedTuple):
    """Where the lists of one column lie in the file: of each row the first word, and the number of words. (n,) each."""

    first: Integers
    size: Int32


class TokenPart(NamedTuple):
    """One tokenized part: the mapped file as 32-bit words, and where in it the lists of its rows lie."""

    words: Int32
    ids: Lists
    mask_runs: Lists
    weight_starts: Lists
    weight_values: Lists
    names: pa.Table
    """source and id of the rows."""


MAX_OPEN_ROWS = 4 << 20
"""Rows of parts that are kept open, of 32 bytes each, while their tokens are mapped: so many whatever the size of the build."""


class TokenSources:
    """The tokenized parts, opened when they are needed; those that were not used longest are closed."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._parts = parts
        self._open: OrderedDict[int, TokenPart] = OrderedDict()
        self._num_rows = 0
        self.cut_answers: Counter[str] = Counter()
        """Source → trained runs that go on after the end of the segment in which they begin."""

    def __getitem__(self, part: int) -> TokenPart:
        """Return a part by its number."""
        if part not in self._open:
            self._open[part] = _open_part(self._parts[part])
            self._num_rows += self._open[part].names.num_rows
            while self._num_rows > MAX_OPEN_ROWS and len(self._open) > 1:
                self._num_rows -= self._open.popitem(last=False)[1].names.num_rows
        self._open.move_to_end(part)
        return self._open[part]


def _open_part(entry: Path) -> TokenPart:
    mapped, batches = map_batches(entry / TOKENIZED_FILE)
    words = np.frombuffer(mapped, dtype=np.int32, count=mapped.size // 4)
    return TokenPart(
        words,
        ids=_locate("input_ids", batches, words),
        mask_runs=_locate("mask_runs", batches, words),
        weight_starts=_locate("weight_starts", batches, words),
        weight_values=_locate("weight_values", batches, words),
        names=pa.Table.from_batches([batch.select(["source", "id"]) for batch in batches]),
    )


def _locate(name: str, batches: Sequence[pa.RecordBatch], words: Int32) -> Lists:
    """Return where the lists of a column lie. Arrow writes every buffer to a multiple of eight bytes."""
    base = words.ctypes.data
    num_rows = sum(map(len, batches))
    lists = Lists(np.zeros(num_rows, dtype=np.int32 if len(words) < 2**31 else np.int64), np.zeros(num_rows, dtype=np.int32))
    end = 0
    for batch in batches:
        column = batch.column(name)
        rows = slice(end, end := end + len(batch))
        if values := column.values:
            offsets = column.offsets.to_numpy()
            np.add(offsets[:-1], (values.buffers()[1].address - base) // 4, out=lists.first[rows], casting="same_kind")
            np.subtract(offsets[1:], offsets[:-1], out=lists.size[rows])
    return lists


def equal_places(numbers: npt.NDArray[np.integer[Any]]) -> list[Int64]:
    """Return the places of each number that occurs, one array a number."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []
