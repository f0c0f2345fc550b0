"""Columns of one number a row that may be larger than memory, and what Plan does with them: block by block.

Inside `scratch` large columns lie in files without a name, whose pages the system writes out and drops as it needs room;
elsewhere they are ordinary memory. What is computed on the way is never larger than a block: memory hardly grows with the rows.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sftdata.disk_file import storage_errors

Array = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.integer[Any]]

BLOCK = 1 << 18
"""Rows that are computed at once: arrays of 2 MiB, which stay in the cache."""
SMALL = 1 << 20
"""Bytes up to which a column is not worth a file."""

_folder: list[Path] = []


@contextmanager
def scratch(folder: Path) -> Iterator[None]:
    """Let large columns that are made in the block lie in files in `folder`."""
    _folder.append(folder)
    try:
        yield
    finally:
        _folder.pop()


def zeros(num_rows: int, kind: npt.DTypeLike) -> Array:
    """Return a column of zeros. Raises StorageError where the disk has no room for it."""
    size = num_rows * np.dtype(kind).itemsize
    if not _folder or size <= SMALL:
        return np.zeros(num_rows, dtype=kind)
    with storage_errors(_folder[-1]), tempfile.TemporaryFile(dir=_folder[-1]) as file:
        if hasattr(os, "posix_fallocate"):  # else a full disk kills the process when a page is written to, as on macOS
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return np.frombuffer(mmap.mmap(file.fileno(), size), dtype=kind)


def empty(num_rows: int, kind: npt.DTypeLike) -> Array:
    """Return a column to be filled. Raises StorageError where the disk has no room for it."""
    small = not _folder or num_rows * np.dtype(kind).itemsize <= SMALL
    return np.empty(num_rows, dtype=kind) if small else zeros(num_rows, kind)


def index_type(num_rows: int) -> type[np.signedinteger[Any]]:
    """Return the type that numbers of so many rows are kept in: four bytes where they suffice."""
    return np.int32 if num_rows < 2**31 else np.int64


def blocks(num_rows: int) -> Iterator[slice]:
    """Yield the rows block by block."""
    for first in range(0, num_rows, BLOCK):
        yield slice(first, min(first + BLOCK, num_rows))


def computed(num_rows: int, kind: npt.DTypeLike, values: Callable[[slice], Array]) -> Array:
    """Return a column of what `values` gives for each block of rows."""
    column = empty(num_rows, kind)
    for rows in blocks(num_rows):
        column[rows] = values(rows)
    return column


def take(values: Array, index: Integers) -> Array:
    """Return `values` (n,) at the places `index` (m,)."""
    return computed(len(index), values.dtype, lambda rows: values[index[rows]])


def places(num_rows: int, chosen: Callable[[slice], npt.NDArray[np.bool_]]) -> Integers:
    """Return the rows for which `chosen`, asked twice about each block of rows, says True; ascending."""
    found = empty(sum(int(np.count_nonzero(chosen(rows))) for rows in blocks(num_rows)), index_type(num_rows))
    end = 0
    for rows in blocks(num_rows):
        here = np.flatnonzero(chosen(rows)) + rows.start
        found[end : end + len(here)] = here
        end += len(here)
    return found


def counts(values: Integers, num_values: int = 0) -> Int64:
    """Return how often each number from 0 occurs in `values`: at least `num_values` counts."""
    found = np.zeros(max(num_values, int(values.max(initial=-1)) + 1), dtype=np.int64)
    for rows in blocks(len(values)):
        here = np.bincount(values[rows])
        found[: len(here)] += here
    return found


def offsets(sizes: Integers) -> Int64:
    """Return where each part starts when parts of `sizes` (n,) follow each other, and where the last ends: (n + 1,)."""
    column = empty(len(sizes) + 1, np.int64)
    column[0] = total = 0
    for rows in blocks(len(sizes)):
        ends = np.cumsum(sizes[rows], dtype=np.int64)
        ends += total
        column[rows.start + 1 : rows.stop + 1] = ends
        total = int(ends[-1])
    return column


def starts(values: Integers) -> Int64:
    """Return where each run of equal `values` (n,) starts, and n."""

    def begins(rows: slice) -> npt.NDArray[np.bool_]:
        changes = np.ones(rows.stop - rows.start, dtype=np.bool_)
        changes[1:] = values[rows][1:] != values[rows][:-1]
        changes[0] = rows.start == 0 or values[rows.start] != values[rows.start - 1]
        return changes

    found = places(len(values), begins)
    column = empty(len(found) + 1, np.int64)
    column[:-1], column[-1] = found, len(values)
    return column


def spans(starts: Int64) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of parts, and the items in them: as many as fit into a block, at least one. starts: see `offsets`."""
    first, num_parts = 0, len(starts) - 1
    while first < num_parts:
        last = max(int(np.searchsorted(starts, starts[first] + BLOCK, side="right")) - 1, first + 1)
        last = min(last, first + BLOCK, num_parts)
        yield slice(first, last), slice(int(starts[first]), int(starts[last]))
        first = last


def sums(values: Array, starts: Int64, index: Integers | None = None) -> Array:
    """Return the sum of the items of each part, of which none is empty: of `values`, or of `values` at `index`."""
    return _reduced(np.add, values, starts, index)


def lowest(values: Array, starts: Int64) -> Array:
    """Return the smallest item of each part, of which none is empty."""
    return _reduced(np.minimum, values, starts, None)


def _reduced(operation: np.ufunc, values: Array, starts: Int64, index: Integers | None) -> Array:
    kind = np.uint64 if values.dtype == np.uint64 else np.int64
    column = empty(len(starts) - 1, kind)
    for parts, items in spans(starts):
        here = values[items] if index is None else values[index[items]]
        column[parts] = operation.reduceat(here, starts[parts] - items.start, dtype=kind)
    return column


def group(num_rows: int, groups: Callable[[slice], Integers], num_groups: int) -> Integers:
    """Return the rows group by group, in their order inside each. groups: the number of the group of each row of a block."""
    order = empty(num_rows, index_type(num_rows))
    for rows, here, target in _dealt(num_rows, groups, num_groups):
        order[target] = here + rows.start
    return order


def group_starts(num_rows: int, groups: Callable[[slice], Integers], num_groups: int) -> Int64:
    """Return where each group begins when rows are put group by group, and where the last one ends."""
    sizes = np.zeros(num_groups, dtype=np.int64)
    for rows in blocks(num_rows):
        sizes += np.bincount(groups(rows), minlength=num_groups)
    return np.append(0, np.cumsum(sizes))


def _dealt(num_rows: int, groups: Callable[[slice], Integers], num_groups: int) -> Iterator[tuple[slice, Int64, Int64]]:
    """Yield for each block: its rows, their places in it sorted by group, and where each of them goes."""
    free = group_starts(num_rows, groups, num_groups)
    for rows in blocks(num_rows):
        mine = groups(rows)
        here = np.argsort(mine, kind="stable")
        sizes = np.bincount(mine, minlength=num_groups)
        some = np.flatnonzero(sizes)
        shift = free[some] - (np.cumsum(sizes[some]) - sizes[some])
        yield rows, here, np.repeat(shift, sizes[some]) + np.arange(len(here))
        free[some] += sizes[some]


PILE = 1 << 18
"""Rows that are sorted at once, about: their keys and places fit into the cache."""


def piles(keys: UInt64) -> Iterator[tuple[UInt64, Integers]]:
    """Divide keys (n,) by their first bits; yield each pile, the lower keys first: its keys, and whose they are, ascending."""
    bits = min(max((len(keys) // PILE).bit_length(), 1), 16)

    def digits(rows: slice) -> npt.NDArray[np.uint16]:
        return (keys[rows] >> np.uint64(64 - bits)).astype(np.uint16)

    if len(keys) <= BLOCK:
        yield keys, np.arange(len(keys))
        return
    starts = group_starts(len(keys), digits, 1 << bits)
    sorted_keys, owner = empty(len(keys), np.uint64), empty(len(keys), index_type(len(keys)))
    for rows, here, target in _dealt(len(keys), digits, 1 << bits):
        sorted_keys[target] = keys[rows][here]
        owner[target] = here + rows.start
    for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        yield sorted_keys[first:end], owner[first:end]


def order_by(keys: UInt64) -> Integers:
    """Return the rows by rising key, ties in order. keys: (n,) hashes: they are sorted in piles by their first bits."""
    order = empty(len(keys), index_type(len(keys)))
    end = 0
    for pile, owner in piles(keys):
        order[end : end + len(pile)] = owner[np.argsort(pile, kind="stable")]
        end += len(pile)
    return order
