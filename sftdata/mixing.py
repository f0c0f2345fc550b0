"""Decide in which order rows are trained on: integers in, integers out.

A shuffle is a sort by a keyed hash of (seed, purpose, row identity). There is no generator state, no clock and no arrival
order, so the same rows come out in the same order however they were listed, and a row that is added moves the others little.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sftdata.errors import RecipeError, suggest

STRATEGIES = ("concat", "buckets")

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.integer]

# splitmix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014): the increment is the odd
# integer nearest to 2**64 / golden ratio; the finaliser is variant 13 of David Stafford's improvements of MurmurHash3's
# ("Better Bit Mixing", 2011).
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


@dataclass(frozen=True, eq=False)
class Mix:
    """The order of the rows of one split, cut into buckets.

    order: (n,) row indices, each exactly once. bucket_ends: (num_buckets,) places in `order`: bucket b is
    order[bucket_ends[b - 1]:bucket_ends[b]], and bucket 0 starts at 0. keys: (n,) one seeded hash for each place of `order`,
    for a later stage that puts groups of these rows in seeded order.
    """

    order: Int64
    bucket_ends: Int64
    keys: UInt64


def mix(
    digests: npt.NDArray[np.uint8] | UInt64,
    category: Integers,
    *,
    strategy: str,
    seed: int,
    bins: int | None = None,
    shuffle: bool = True,
) -> Mix:
    """Put the rows of one split in the order of training.

    digests: (n, 16) uint8 or (n, 2) uint64, the content digest of each row. category: (n,) any integers; equal means the same
    category. Numbers that do not depend on the other categories keep each category in its bins when one is added.

    `concat` makes one bucket: in seeded order, or as given without `shuffle`. `buckets` divides every category into `bins`
    bins and makes bucket k from bin k of every category, so that any two buckets differ by at most one row of each category.
    With `shuffle` the rows are shuffled before they are divided and again inside their bucket; without it they stay in the
    given order.

    Raises RecipeError for an unknown strategy, and for `bins` that are missing, below 1, or given to `concat`.
    """
    _check_options(strategy, bins)
    identity = row_identity(digests)
    if len(category) != len(identity):
        raise ValueError(f"{len(identity)} digests and {len(category)} categories; there must be one of each for a row")
    if bins is None:
        bucket = np.zeros(len(identity), dtype=np.int64)
    else:
        bucket = _divide(identity, category, bins=bins, seed=seed, shuffle=shuffle)
    order = keyed_order(identity, seed=seed, purpose="order") if shuffle else np.arange(len(identity), dtype=np.int64)
    if bins is not None:
        order = order[_stable_order(bucket[order])]
    bucket_ends = np.cumsum(np.bincount(bucket, minlength=bins or 1), dtype=np.int64)
    return Mix(order, bucket_ends, keyed_hash(identity[order], seed=seed, purpose="packs"))


def row_identity(digests: npt.NDArray[np.uint8] | UInt64) -> UInt64:
    """Return one 64-bit number for each row that depends on its content and on how many copies of it came before.

    digests: (n, 16) uint8 or (n, 2) uint64. Exact copies are numbered 0, 1, 2 ... by row index, and the number is part of
    the identity: copies are shuffled independently of each other, and a distinct row has the same identity wherever it stands.
    """
    words = _digest_words(digests)
    folded = _mix64(words[:, 0] ^ _mix64(words[:, 1] + _INCREMENT))
    copy_number = _count_earlier_copies(folded)
    return _mix64(folded + copy_number.astype(np.uint64) * _INCREMENT)


def keyed_hash(identity: UInt64, *, seed: int, purpose: str) -> UInt64:
    """Hash 64-bit numbers under a seed and a purpose. identity: (n,) → (n,); distinct numbers get distinct hashes.

    Two purposes, or two seeds, give orders that have nothing to do with each other.
    """
    salt = np.frombuffer(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest(), dtype="<u8")
    return _mix64(_mix64(identity ^ salt[0]) + salt[1])


def keyed_order(identity: UInt64, *, seed: int, purpose: str) -> Int64:
    """Shuffle: return the indices of `identity` (n,) sorted by keyed hash, ties by index. Returns (n,)."""
    return _stable_order(keyed_hash(identity, seed=seed, purpose=purpose))


def _divide(identity: UInt64, category: Integers, *, bins: int, seed: int, shuffle: bool) -> Int64:
    """Return the bin of every row, (n,), even within one row inside every category.

    Row r of the R rows of a category falls into bin (r * bins + phase) // R, the line-drawing rule of Bresenham (1965): bins
    are contiguous and even, and a category with fewer rows than bins is spread over all of them. The phase, below `bins`, is
    keyed by category, so that the rows left over by many small categories do not meet in the same bucket.
    """
    values, index, num_rows = np.unique(category, return_inverse=True, return_counts=True)
    phase = keyed_hash(values.astype(np.int64).view(np.uint64), seed=seed, purpose="phase") % np.uint64(bins)
    by_row = keyed_order(identity, seed=seed, purpose="bins") if shuffle else np.arange(len(identity), dtype=np.int64)
    by_category = by_row[_stable_order(index[by_row])]
    first = np.cumsum(num_rows) - num_rows
    rank = np.arange(len(identity), dtype=np.int64) - np.repeat(first, num_rows)
    bucket = np.empty(len(identity), dtype=np.int64)
    bucket[by_category] = (rank * bins + np.repeat(phase.astype(np.int64), num_rows)) // np.repeat(num_rows, num_rows)
    return bucket


def _count_earlier_copies(values: UInt64) -> Int64:
    """Return for every value how many equal values stand before it. (n,) → (n,)."""
    order = _stable_order(values)
    places = np.arange(len(values), dtype=np.int64)
    is_first = np.ones(len(values), dtype=bool)
    is_first[1:] = values[order[1:]] != values[order[:-1]]
    counts = np.empty(len(values), dtype=np.int64)
    counts[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return counts


def _stable_order(values: npt.NDArray[np.generic]) -> Int64:
    return np.argsort(values, kind="stable")


def _mix64(values: UInt64) -> UInt64:
    """Apply the finaliser of splitmix64, a bijection: each input bit changes about half of the output bits."""
    values = (values ^ (values >> _SHIFTS[0])) * _MULTIPLIERS[0]
    values = (values ^ (values >> _SHIFTS[1])) * _MULTIPLIERS[1]
    return values ^ (values >> _SHIFTS[2])


def _digest_words(digests: npt.NDArray[np.uint8] | UInt64) -> UInt64:
    """Return digests as (n, 2) uint64. Bytes are read as little-endian on every machine."""
    if digests.dtype == np.uint8 and digests.ndim == 2 and digests.shape[1] == 16:
        return np.ascontiguousarray(digests).view("<u8").astype(np.uint64, copy=False)
    if digests.dtype == np.uint64 and digests.ndim == 2 and digests.shape[1] == 2:
        return digests.astype(np.uint64, copy=False)
    raise ValueError(f"digests are {digests.dtype} of shape {digests.shape}; expected uint8 (n, 16) or uint64 (n, 2)")


def _check_options(strategy: str, bins: int | None) -> None:
    if strategy not in STRATEGIES:
        raise RecipeError(f"mix.strategy: unknown strategy {strategy!r}{suggest(strategy, STRATEGIES)}")
    if strategy == "concat" and bins is not None:
        raise RecipeError(f"mix.bins: {bins} has no meaning with strategy 'concat'; remove it, or use strategy 'buckets'")
    if strategy == "buckets" and (bins is None or bins < 1):
        raise RecipeError(f"mix.bins: {bins}; strategy 'buckets' needs at least 1")
