"""Packed rows as arrays: what a strategy makes of the samples of one bucket, and the plan of all buckets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Plan:
    """Which segment of which sample stands where: packed row r holds segments pack_offsets[r] to pack_offsets[r + 1] - 1.

    pack_offsets: (num_rows + 1,). item: (num_segments,) the sample, as a place in the order that was packed.
    start, length: (num_segments,) first token of the segment in its sample, and its number of tokens.
    bucket_rows: (num_buckets,) number of packed rows of every bucket, whose rows follow each other.
    """

    pack_offsets: Int64
    item: Int64
    start: Int32
    length: Int32
    bucket_rows: Int64


class Rows(NamedTuple):
    """Rows of one bucket: the number of segments of each row, then per segment the sample, its first token and its tokens."""

    sizes: Int64
    item: Int64
    start: Int32
    length: Int32


def join(buckets: Sequence[Rows]) -> Plan:
    """Return the plan of all buckets, whose rows name their samples by place in the whole order already."""
    sizes, item, start, length = buckets[0] if len(buckets) == 1 else map(np.concatenate, zip(*buckets, strict=True))
    return Plan(
        pack_offsets=offsets(sizes),
        item=item,
        start=start,
        length=length,
        bucket_rows=np.array([len(rows.sizes) for rows in buckets], dtype=np.int64),
    )


def whole_samples(sizes: Int64, item: Int64, lengths: Integers) -> Rows:
    """Return rows of uncut samples. sizes: segments of each row; item: the samples, row after row; lengths: of all samples."""
    return Rows(sizes, item, np.zeros(len(item), dtype=np.int32), lengths[item].astype(np.int32))


def offsets(sizes: Integers) -> Int64:
    """Return where each part starts when parts of `sizes` (n,) follow each other, and where the last ends: (n + 1,)."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes, dtype=np.int64)])


def longest_first(lengths: Integers, sequence_len: int) -> Int64:
    """Return the indices of `lengths` from long to short, ties in order. NumPy sorts 16-bit integers in linear time."""
    return np.argsort((sequence_len - lengths).astype(np.min_scalar_type(sequence_len)), kind="stable")


def order_by_keys(rows: Rows, keys: UInt64) -> Rows:
    """Sort rows of whole samples by the sum of their samples' keys: it depends on what is in a row, not on how it was found."""
    return _sorted(rows, np.add.reduceat(keys[rows.item], offsets(rows.sizes)[:-1])) if len(rows.sizes) else rows


def order_by_place(rows: Rows) -> Rows:
    """Sort rows of whole samples by the first of their samples in the order that was packed."""
    return _sorted(rows, np.minimum.reduceat(rows.item, offsets(rows.sizes)[:-1])) if len(rows.sizes) else rows


def _sorted(rows: Rows, values: npt.NDArray[np.generic]) -> Rows:
    begin = offsets(rows.sizes)[:-1]
    order = np.argsort(values, kind="stable")
    sizes = rows.sizes[order]
    segment = np.repeat(begin[order] - offsets(sizes)[:-1], sizes) + np.arange(len(rows.item))
    return Rows(sizes, rows.item[segment], rows.start, rows.length[segment])
