"""Seeded orders without state: a shuffle is a sort by a keyed hash of (seed, purpose, row identity).

There is no generator state, no clock and no arrival order, so the same rows come out in the same order however they were
listed, and a row that is added moves the others little.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from sftdata import columns

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.integer]

# splitmix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014): the increment is the odd
# integer nearest to 2**64 / golden ratio; the finaliser is variant 13 of David Stafford's improvements of MurmurHash3's
# ("Better Bit Mixing", 2011).
_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_CHUNK = 1 << 15
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


def fold_digests(digests: npt.NDArray[np.uint8] | UInt64) -> UInt64:
    """Return one 64-bit number for each content digest. digests: (n, 16) uint8 or (n, 2) uint64 → (n,)."""
    words = _digest_words(digests)
    return _mix64(words[:, 0] ^ _mix64(words[:, 1] + _INCREMENT))


def row_identity(folded: UInt64) -> UInt64:
    """Return one 64-bit number for each row that depends on its content and on how many copies of it came before.

    folded: (n,), of `fold_digests`. Exact copies are numbered 0, 1, 2 ... by row index, and the number is part of the
    identity: copies are shuffled independently of each other, and a distinct row has the same identity wherever it stands.
    """
    identity = columns.empty(len(folded), np.uint64)
    identity[:] = folded
    for keys, owner in columns.piles(folded):
        copy = _count_earlier_copies(keys)
        if (copies := np.flatnonzero(copy)).size:
            identity[owner[copies]] = copy_identity(keys[copies], copy[copies])
    return _mix64(identity, identity)


def keyed_hash(identity: UInt64, *, seed: int, purpose: str) -> UInt64:
    """Hash 64-bit numbers under a seed and a purpose. identity: (n,) → (n,); distinct numbers get distinct hashes.

    Two purposes, or two seeds, give orders that have nothing to do with each other.
    """
    salt = np.frombuffer(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest(), dtype="<u8")
    return columns.computed(len(identity), np.uint64, lambda rows: _mix64(_mix64(identity[rows] ^ salt[0]) + salt[1]))


def keyed_order(identity: UInt64, *, seed: int, purpose: str) -> Integers:
    """Shuffle: return the indices of `identity` (n,) sorted by keyed hash, ties by index. Returns (n,)."""
    return columns.order_by(keyed_hash(identity, seed=seed, purpose=purpose))


def copy_identity(identity: UInt64, copy: Integers) -> UInt64:
    """Return the identity of each row's copy: its own for copy 0, and another for every further one. (n,), (n,) → (n,)."""
    return identity + copy.astype(np.uint64) * _INCREMENT


def _count_earlier_copies(values: UInt64) -> Int64:
    """Return for every value how many equal values stand before it. (n,) → (n,)."""
    counts = np.zeros(len(values), dtype=np.int64)
    rising = np.sort(values)
    repeated = rising[1:][rising[1:] == rising[:-1]]
    del rising
    if not len(repeated):
        return counts
    some = np.flatnonzero(np.isin(values, repeated))  # the others have no copy, and there are many
    order = some[stable_order(values[some])]
    places = np.arange(len(order), dtype=np.int64)
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = values[order[1:]] != values[order[:-1]]
    counts[order] = places - np.maximum.accumulate(np.where(is_first, places, 0))
    return counts


def stable_order(values: npt.NDArray[np.generic]) -> Int64:
    """Return the indices of `values` (n,) from small to large, ties in order."""
    return np.argsort(values, kind="stable")


def _mix64(values: UInt64, out: UInt64 | None = None) -> UInt64:
    """Apply the finaliser of splitmix64, a bijection: each input bit changes about half of the output bits."""
    mixed = values.copy() if out is None else out
    for first in range(0, len(mixed), _CHUNK):  # in place, chunks that stay in the cache: a third of the time and memory
        chunk = mixed[first : first + _CHUNK]
        for shift, multiplier in zip(_SHIFTS, _MULTIPLIERS, strict=False):
            chunk ^= chunk >> shift
            chunk *= multiplier
        chunk ^= chunk >> _SHIFTS[2]
    return mixed


def _digest_words(digests: npt.NDArray[np.uint8] | UInt64) -> UInt64:
    """Return digests as (n, 2) uint64. Bytes are read as little-endian on every machine."""
    if digests.dtype == np.uint8 and digests.ndim == 2 and digests.shape[1] == 16:
        return np.ascontiguousarray(digests).view("<u8").astype(np.uint64, copy=False)
    if digests.dtype == np.uint64 and digests.ndim == 2 and digests.shape[1] == 2:
        return digests.astype(np.uint64, copy=False)
    raise ValueError(f"digests are {digests.dtype} of shape {digests.shape}; expected uint8 (n, 16) or uint64 (n, 2)")
