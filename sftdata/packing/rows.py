"""Packed rows as arrays: what a strategy makes of the samples of one bucket, and the plan of all buckets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sftdata import columns
from sftdata.columns import offsets

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
    item: Integers
    start: Int32
    length: Int32
    bucket_rows: Int64


class Rows(NamedTuple):
    """Rows of one bucket: the number of segments of each row, then per segment the sample, its first token and its tokens."""

    sizes: Integers
    item: Integers
    start: Int32
    length: Int32


def join(buckets: Sequence[Rows]) -> Plan:
    """Return the plan of all buckets, whose rows name their samples by place in the whole order already."""
    sizes, item, start, length = buckets[0] if len(buckets) == 1 else map(_joined, zip(*buckets, strict=True))
    return Plan(
        pack_offsets=offsets(sizes),
        item=item,
        start=start,
        length=length,
        bucket_rows=np.array([len(rows.sizes) for rows in buckets], dtype=np.int64),
    )


def _joined(pieces: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(pieces, out=columns.empty(sum(map(len, pieces)), pieces[0].dtype))


def whole_samples(sizes: Integers, item: Integers, lengths: Integers) -> Rows:
    """Return rows of uncut samples. sizes: segments of each row; item: the samples, row after row; lengths: of all samples."""
    length = columns.computed(len(item), np.int32, lambda segments: lengths[item[segments]])
    return Rows(sizes, item, columns.zeros(len(item), np.int32), length)


def longest_first(lengths: Integers, sequence_len: int) -> Integers:
    """Return the indices of `lengths` from long to short, ties in order. NumPy sorts 16-bit integers in linear time."""
    kind = np.min_scalar_type(sequence_len)
    return columns.group(len(lengths), lambda rows: (sequence_len - lengths[rows]).astype(kind), sequence_len + 1)


def order_by_keys(rows: Rows, keys: UInt64) -> Rows:
    """Sort rows of whole samples by the sum of their samples' keys: it depends on what is in a row, not on how it was found."""
    begin = offsets(rows.sizes)
    return _sorted(rows, begin, columns.sums(keys, begin, rows.item))


def order_by_place(rows: Rows) -> Rows:
    """Sort rows of whole samples by the first of their samples in the order that was packed."""
    begin = offsets(rows.sizes)
    first = columns.lowest(rows.item, begin)
    shift = np.uint64(64 - len(rows.item).bit_length())  # piles are made by the highest bits
    return _sorted(rows, begin, columns.computed(len(first), np.uint64, lambda some: first[some].astype(np.uint64) << shift))


def _sorted(rows: Rows, begin: Int64, keys: UInt64) -> Rows:
    order = columns.order_by(keys)
    sizes = columns.take(rows.sizes, order)
    starts = offsets(sizes)
    item, length = columns.empty(len(rows.item), rows.item.dtype), columns.empty(len(rows.item), np.int32)
    for some, segments in columns.spans(starts):
        shift = begin[order[some]] - starts[some]
        old = np.repeat(shift, sizes[some]) + np.arange(segments.start, segments.stop)
        item[segments], length[segments] = rows.item[old], rows.length[old]
    return Rows(sizes, item, rows.start, length)
