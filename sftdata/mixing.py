"""Decide in which order rows are trained on: integers in, integers out.

concat      all rows in one seeded order
buckets     every category spread evenly over buckets, which are trained one after the other
weighted    as many copies of each row as `weighting` chose, the copies far from each other
curriculum  buckets of rising value, of length or of a column
percent     slices by position, as the public script of Colossal-LLaMA cuts them

Rows are shuffled inside their bucket, never across.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sftdata import columns
from sftdata.shuffling import Int64, Integers, UInt64, copy_identity, keyed_hash, keyed_order, stable_order

Values = npt.NDArray[np.integer] | npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Mix:
    """The order of the rows of one split, cut into buckets.

    order: (n,) row indices, each once for every copy of it. copy: (n,) int32, the number of that copy from 0.
    bucket_ends: (num_buckets,) places in `order`: bucket b is order[bucket_ends[b - 1]:bucket_ends[b]], and bucket 0 starts
    at 0. keys: (n,) one seeded hash for each place of `order`, for what puts groups of these rows in seeded order later.
    """

    order: Integers
    copy: npt.NDArray[np.int32]
    bucket_ends: Int64
    keys: UInt64


def concat(identity: UInt64, *, seed: int, shuffle: bool = True) -> Mix:
    """Put all rows into one bucket, in seeded order, or as given without `shuffle`. identity: (n,), see `row_identity`."""
    return _fill_buckets(identity, columns.zeros(len(identity), np.int8), 1, seed=seed, shuffle=shuffle)


def buckets(identity: UInt64, category: Integers, *, bins: int, seed: int, shuffle: bool = True) -> Mix:
    """Divide every category into `bins` bins and make bucket k from bin k of every category.

    identity: (n,). category: (n,) any integers; equal means the same category. Numbers that do not depend on the other
    categories keep each category in its bins when one is added. Any two buckets differ by at most one row of each category.
    With `shuffle` the rows are shuffled before they are divided and again inside their bucket; without it they stay in the
    given order.
    """
    bucket = _divide(identity, category, bins=bins, seed=seed, shuffle=shuffle)
    return _fill_buckets(identity, bucket, bins, seed=seed, shuffle=shuffle)


def weighted(identity: UInt64, category: Integers, num_copies: Integers, *, seed: int, shuffle: bool = True) -> Mix:
    """Repeat rows so that no bucket holds a row twice, and every bucket holds about the same of each category.

    identity: (n,). category: (n,) 32-bit integers. num_copies: (n,) how often each row is trained, 0 leaves it out. There are
    as many buckets as the largest number of copies; a row's copies lie as far from each other as these allow.
    """
    num_buckets = max(int(num_copies.max(initial=0)), 1)
    alike = columns.computed(len(category), np.int64, lambda rows: (category[rows].astype(np.int64) << 32) + num_copies[rows])
    phase = _divide(identity, alike, bins=num_buckets, seed=seed, shuffle=shuffle)
    starts = columns.offsets(num_copies)
    size = int(starts[-1])
    row, copy = columns.empty(size, columns.index_type(len(identity))), columns.empty(size, np.int32)
    bucket, identities = columns.empty(size, np.int32), columns.empty(size, np.uint64)
    for rows, copies in columns.spans(starts):
        mine = np.repeat(np.arange(rows.start, rows.stop), num_copies[rows])
        row[copies], copy[copies] = mine, np.arange(copies.start, copies.stop) - starts[mine]
        bucket[copies] = (copy[copies].astype(np.int64) * num_buckets + phase[mine]) // num_copies[mine]
        identities[copies] = copy_identity(identity[mine], copy[copies])
    mixed = _fill_buckets(identities, bucket, num_buckets, seed=seed, shuffle=shuffle)
    return replace(mixed, order=columns.take(row, mixed.order), copy=columns.take(copy, mixed.order))


def curriculum(identity: UInt64, values: Values, *, bins: int, seed: int, shuffle: bool = True) -> Mix:
    """Cut the rows, sorted by rising value, into `bins` buckets of equally many rows.

    identity, values: (n,). Rows of equal value are in seeded order, or as given without `shuffle`. With it rows are also
    shuffled inside their bucket; without it they rise there too.
    """
    rising = _tie_order(identity, seed=seed, shuffle=shuffle)
    rising = rising[stable_order(values[rising])]
    bucket = np.empty(len(rising), dtype=np.int64)
    bucket[rising] = np.arange(len(rising)) * bins // max(len(rising), 1)
    if shuffle:
        return _fill_buckets(identity, bucket, bins, seed=seed, shuffle=True)
    return _ordered(identity, rising, bucket, bins, seed=seed)


def percent(identity: UInt64, category: Integers, lengths: Integers, *, bins: int, seed: int) -> Mix:
    """Cut the rows by position into slices of ceil(100 / bins) percent, each sorted by category, then length.

    identity, category, lengths: (n,); categories compare as numbers. This is what the public `prepare_pretrain_dataset.py` of
    Colossal-LLaMA does: for many `bins` it makes fewer slices than asked, and a slice may hold one category alone.
    """
    ends = percent_ends(len(identity), bins)
    bucket = np.searchsorted(ends, np.arange(len(identity)), side="right")
    return _ordered(identity, np.lexsort((lengths, category, bucket)), bucket, len(ends), seed=seed)


def percent_ends(num_rows: int, bins: int) -> Int64:
    """Return where each percent slice of `num_rows` rows ends, rounded as `datasets` does: to the nearest, .5 to even."""
    step = -(-100 // bins)
    return np.array([round(min(first + step, 100) * num_rows / 100) for first in range(0, 100, step)], dtype=np.int64)


def group_by_length(mixed: Mix, lengths: Integers, *, group_rows: int, seed: int) -> Mix:
    """Put rows of similar length side by side, in groups of `group_rows`, the groups of a bucket in seeded order.

    lengths: of the rows by index, not by place. Batches cut from whole groups then need little padding. The last group of a
    bucket holds its longest rows and may be short; it stays at the end, so that the others stay aligned.
    """
    lengths = columns.take(lengths, mixed.order)
    pieces = []
    first = 0
    for end in mixed.bucket_ends.tolist():
        rising = first + np.lexsort((mixed.keys[first:end], lengths[first:end]))
        num_groups = len(rising) // group_rows
        whole = rising[: num_groups * group_rows].reshape(num_groups, group_rows)
        order = keyed_order(mixed.keys[whole[:, 0]], seed=seed, purpose="length groups")
        pieces += [whole[order].reshape(-1), rising[num_groups * group_rows :]]
        first = end
    place = np.concatenate(pieces)
    return replace(mixed, **{name: columns.take(getattr(mixed, name), place) for name in ("order", "copy", "keys")})


def _fill_buckets(identity: UInt64, bucket: Integers, num_buckets: int, *, seed: int, shuffle: bool) -> Mix:
    """Return the rows bucket by bucket, inside each in seeded order or as given."""
    order = _tie_order(identity, seed=seed, shuffle=shuffle)
    if num_buckets > 1:
        order = _grouped(order, bucket, num_buckets)
    return _ordered(identity, order, bucket, num_buckets, seed=seed)


def _grouped(order: Integers, groups: Integers, num_groups: int) -> Integers:
    """Return rows that stand in an order group by group. groups: of the rows by index."""
    return columns.take(order, columns.group(len(order), lambda rows: groups[order[rows]], num_groups))


def _ordered(identity: UInt64, order: Integers, bucket: Integers, num_buckets: int, *, seed: int) -> Mix:
    """Return the mix of rows that stand in `order` already, bucket after bucket."""
    ends = np.cumsum(columns.counts(bucket, num_buckets), dtype=np.int64)
    keys = keyed_hash(columns.take(identity, order), seed=seed, purpose="packs")
    return Mix(order, columns.zeros(len(order), np.int32), ends, keys)


def _tie_order(identity: UInt64, *, seed: int, shuffle: bool, purpose: str = "order") -> Integers:
    if shuffle:
        return keyed_order(identity, seed=seed, purpose=purpose)
    return columns.computed(len(identity), np.int64, lambda rows: np.arange(rows.start, rows.stop))


def _divide(identity: UInt64, category: Integers, *, bins: int, seed: int, shuffle: bool) -> Integers:
    """Return the bin of every row, (n,), even within one row inside every category.

    Row r of the R rows of a category falls into bin (r * bins + phase) // R, the line-drawing rule of Bresenham (1965): bins
    are contiguous and even, and a category with fewer rows than bins is spread over all of them. The phase, below `bins`, is
    keyed by category, so that the rows left over by many small categories do not meet in the same bucket.
    """
    size = len(identity)
    values = np.unique(np.concatenate([np.unique(category[rows]) for rows in columns.blocks(size)] or [category]))
    index = columns.computed(size, np.int32, lambda rows: np.searchsorted(values, category[rows]))
    phase = keyed_hash(values.astype(np.int64).view(np.uint64), seed=seed, purpose="phase") % np.uint64(bins)
    by_category = _grouped(_tie_order(identity, seed=seed, shuffle=shuffle, purpose="bins"), index, len(values))
    starts = np.append(0, np.cumsum(columns.counts(index, len(values))))
    bucket = columns.empty(size, np.int32)
    for rows in columns.blocks(size):
        place = np.arange(rows.start, rows.stop, dtype=np.int64)
        mine = np.searchsorted(starts, place, side="right") - 1
        num_rows = starts[mine + 1] - starts[mine]
        bucket[by_category[rows]] = ((place - starts[mine]) * bins + phase.astype(np.int64)[mine]) // num_rows
    return bucket
