"""Pairs of similar sets: bands bring candidates together, and their members decide exactly.

One column of band keys is in memory at a time, and of it no more than `SORTED_ITEMS`; sets are read only of candidates. What
comes out does not depend on how the items are spread over files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sftdata import progress
from sftdata.dedup.items import Items
from sftdata.dedup.survivors import Pairs

UInt64 = npt.NDArray[np.uint64]

SORTED_ITEMS = 1 << 22
"""Items whose keys are sorted at once: 32 MiB, and twice that while they are put together."""
SMALL_GROUP = 16
"""Items with one key of which every pair is compared; of more, each with the first, and what is not like it with the next."""
ROUNDS = 16
"""How often that is repeated for a large group."""
CHUNK_MEMBERS = 1 << 20
"""Members of sets that are compared at once: 8 MiB, and a few times that for their order."""

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


class _Known(NamedTuple):
    """Pairs that were compared: codes, (m,) ascending, first item above and second below; similarity, (m,)."""

    codes: UInt64
    similarity: npt.NDArray[np.float32]

    def merge(self, codes: UInt64, similarity: npt.NDArray[np.float32]) -> _Known:
        place = np.searchsorted(self.codes, codes)
        return _Known(np.insert(self.codes, place, codes), np.insert(self.similarity, place, similarity))


def similar_pairs(items: Items, alive: npt.NDArray[np.bool_], *, threshold: float, num_bands: int) -> Pairs:
    """Return the pairs of items whose sets have a Jaccard similarity of at least `threshold`, by first, then by second item.

    alive: (rows,) the rows whose items are compared. Of the pairs at the threshold, 99 in 100 are found, of more similar ones
    more (see `minhash.choose_bands`); no pair is returned that is less similar.
    """
    known = _Known(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.float32))
    for band in range(num_bands):
        for packed in _sorted_keys(items, alive, band):
            known = _compare_groups(items, packed, threshold, known)
        progress.tick(0)
    found = known.similarity >= np.float32(threshold)
    codes = known.codes[found]
    return Pairs((codes >> _SHIFT).astype(np.int64), (codes & _LOW).astype(np.int64), known.similarity[found])


def _sorted_keys(items: Items, alive: npt.NDArray[np.bool_], band: int) -> Iterator[UInt64]:
    """Yield the items that share their key of a band with others: numbers with the key above and the item below, ascending."""
    num_passes = -(-len(items) // SORTED_ITEMS)
    for number in range(num_passes):
        pieces = []
        for first, rows, [keys] in items.scan(f"band_{band}"):
            packed = keys.to_numpy().astype(np.uint64) << _SHIFT | np.arange(first, first + len(rows), dtype=np.uint64)
            wanted = alive[rows]
            if num_passes > 1:
                wanted &= (packed >> _SHIFT) % np.uint64(num_passes) == number
            pieces.append(packed if wanted.all() else packed[wanted])
        packed = np.concatenate(pieces)
        packed.sort()
        key = (packed >> _SHIFT).astype(np.uint32)
        same = key[1:] == key[:-1]
        shared = np.zeros(len(packed), dtype=bool)
        shared[1:] |= same
        shared[:-1] |= same
        yield packed[shared]


def _compare_groups(items: Items, packed: UInt64, threshold: float, known: _Known) -> _Known:
    """Compare the items of each group of equal keys, and add what was found to what is known."""
    key = (packed >> _SHIFT).astype(np.uint32)
    starts = np.flatnonzero(np.concatenate([np.ones(min(len(key), 1), dtype=bool), key[1:] != key[:-1]]))
    size = np.repeat(np.diff(starts, append=len(key)), np.diff(starts, append=len(key)))
    item = packed & _LOW
    small = size <= SMALL_GROUP
    known = _add(items, _all_pairs(key[small], item[small]), threshold, known)
    key, item = key[~small], item[~small]
    for _ in range(ROUNDS):
        if not len(key):
            break
        begins = np.concatenate([[True], key[1:] != key[:-1]])
        head = item[np.maximum.accumulate(np.where(begins, np.arange(len(key)), 0))]
        codes = head[~begins] << _SHIFT | item[~begins]
        known = _add(items, np.unique(codes), threshold, known)
        alike = known.similarity[np.searchsorted(known.codes, codes)] >= np.float32(threshold)
        left = np.flatnonzero(~begins)[~alike]
        key, item = key[left], item[left]
    return known


def _all_pairs(key: npt.NDArray[np.uint32], item: UInt64) -> UInt64:
    """Return the codes of all pairs inside groups of equal keys, ascending, each once."""
    codes = [np.zeros(0, dtype=np.uint64)]
    for distance in range(1, SMALL_GROUP):
        first = np.flatnonzero(key[distance:] == key[:-distance])
        if not len(first):
            break
        codes.append(item[first] << _SHIFT | item[first + distance])
    return np.unique(np.concatenate(codes))


def _add(items: Items, codes: UInt64, threshold: float, known: _Known) -> _Known:
    """Compare the pairs that are not known yet. codes: (m,) ascending, each once."""
    place = np.minimum(np.searchsorted(known.codes, codes), max(len(known.codes) - 1, 0))
    if len(known.codes):
        codes = codes[known.codes[place] != codes]
    similarity = np.zeros(len(codes), dtype=np.float32)
    length = items.set_sizes((codes >> _SHIFT).astype(np.int64)), items.set_sizes((codes & _LOW).astype(np.int64))
    shorter, longer = np.minimum(*length), np.maximum(*length)
    possible = np.flatnonzero(shorter >= threshold * longer - 1e-6)  # more than its share no intersection can be
    ends = np.cumsum((shorter + longer)[possible])
    first = 0
    while first < len(possible):
        before = int(ends[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends, before + CHUNK_MEMBERS, side="right")), first + 1)
        chosen = possible[first:last]
        similarity[chosen] = _jaccard(items, codes[chosen])
        first = last
    return known.merge(codes, similarity)


def _jaccard(items: Items, codes: UInt64) -> npt.NDArray[np.float32]:
    """Return the Jaccard similarity of pairs of sets, (m,); 0 where the answers in them are less than half as similar.

    Two questions on one long passage are alike to nine tenths, but what is learned from them is not. Two empty sets are equal.
    """
    sides = [(codes >> _SHIFT).astype(np.int64), (codes & _LOW).astype(np.int64)]
    wanted = np.unique(np.concatenate(sides))
    values, offsets = items.sets(wanted)
    marked = []
    for side in sides:
        place = np.searchsorted(wanted, side)
        size = offsets[place + 1] - offsets[place]
        pair = np.repeat(np.arange(len(codes), dtype=np.uint64), size)
        index = np.arange(int(size.sum())) + np.repeat(offsets[place] - np.cumsum(size) + size, size)
        marked.append(pair << _SHIFT | values[index])  # ascending: by pair, then by member
    members = np.concatenate(marked)
    members.sort(kind="stable")  # merges the two ascending halves
    common = members[1:][members[1:] == members[:-1]]
    whole = _share(common, members, len(codes))
    answers = _share(common[common & np.uint64(1) == 1], members[members & np.uint64(1) == 1], len(codes))
    return np.where(answers >= whole / 2, whole, 0).astype(np.float32)


def _share(common: UInt64, members: UInt64, num_pairs: int) -> npt.NDArray[np.float64]:
    """Return intersection through union of each pair, (num_pairs,); 1 where there is nothing to compare."""
    num_common = np.bincount((common >> _SHIFT).astype(np.int64), minlength=num_pairs)
    union = np.bincount((members >> _SHIFT).astype(np.int64), minlength=num_pairs) - num_common
    return np.where(union, num_common / np.maximum(union, 1), 1.0)
