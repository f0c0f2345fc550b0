"""Which of equal or similar items stays, which go, and for each that goes the one that stays in its place."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


class Duplicates(NamedTuple):
    """The decision over n items."""

    surplus: Bool
    """(n,) True for an item that goes."""
    survivor: Int64
    """(n,) the item that stays in its place; the item itself where it has none like it."""


class Pairs(NamedTuple):
    """Pairs of similar items: first, second, (m,) items; similarity, (m,) float32, their Jaccard similarity."""

    first: Int64
    second: Int64
    similarity: npt.NDArray[np.float32]


def exact(digests: npt.NDArray[np.uint64], rank: Int64, *, max_copies: int, reference: Bool | None = None) -> Duplicates:
    """Find items whose digest `max_copies` items of better rank have.

    digests: (n, 2). rank: (n,) a permutation of 0 … n - 1; the smallest of a group is its survivor. reference: (n,) items that
    always stay; where given, only items equal to one of them are surplus.
    """
    num_items = len(digests)
    behind = np.zeros(num_items, dtype=bool) if reference is None else ~reference
    order = np.lexsort((rank, behind, digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    starts = np.ones(num_items, dtype=bool)
    starts[1:] = np.any(ordered[1:] != ordered[:-1], axis=1)
    first = np.maximum.accumulate(np.where(starts, np.arange(num_items), 0))
    survivor = np.empty(num_items, dtype=np.int64)
    survivor[order] = order[first] if num_items else order
    if reference is not None:
        return Duplicates(~reference & reference[survivor], survivor)
    surplus = np.zeros(num_items, dtype=bool)
    surplus[order] = np.arange(num_items) - first >= max_copies
    return Duplicates(surplus, survivor)


class NearDuplicates(NamedTuple):
    """Items that go, ascending: item, survivor, similarity, all (m,)."""

    item: Int64
    survivor: Int64
    similarity: npt.NDArray[np.float32]


def near(pairs: Pairs, items: Int64, rank: Int64, *, exempt: Bool, max_copies: int) -> NearDuplicates:
    """Find the items that resemble `max_copies` items of better rank that stay.

    In the order of rank, so that each item that goes resembles one that stays: a chain of small changes is cut where its
    ends no longer resemble each other. items: (k,) those in pairs, ascending, with rank (k,), a permutation of 0 … k - 1,
    and exempt, (k,) those that stay in any case. The survivor is the best of those that the item resembles.
    """
    place = np.argsort(rank)
    ranks = rank[np.searchsorted(items, pairs.first)], rank[np.searchsorted(items, pairs.second)]
    better, worse = np.minimum(*ranks), np.maximum(*ranks)
    order = np.lexsort((better, worse))
    bounds = np.searchsorted(worse[order], np.arange(len(items) + 1)).data  # gives integers, and holds 8 bytes for each
    neighbours = better[order].data
    kept_anyway = exempt[place].tobytes()
    goes = bytearray(len(items))
    chosen = array("q")  # of what goes: the place of the pair with its survivor
    for number in range(len(items)):
        if kept_anyway[number]:
            continue
        standing = [edge for edge in range(bounds[number], bounds[number + 1]) if not goes[neighbours[edge]]]
        if len(standing) >= max_copies:
            goes[number] = 1
            chosen.append(standing[0])
    edge = order[np.frombuffer(chosen, dtype=np.int64)]
    item, survivor = items[place[worse[edge]]], items[place[better[edge]]]
    similarity = pairs.similarity[edge]
    ascending = np.argsort(item)
    return NearDuplicates(item[ascending], survivor[ascending], similarity[ascending])


def against_reference(pairs: Pairs, items: Int64, rank: Int64, *, exempt: Bool, reference: Bool) -> NearDuplicates:
    """Find the items outside `reference` that resemble one inside; nothing else is compared. All (k,) as in `near`."""
    first, second = np.searchsorted(items, pairs.first), np.searchsorted(items, pairs.second)
    inside = np.where(reference[first], first, second)
    outside = np.where(reference[first], second, first)
    chosen = reference[inside] & ~reference[outside] & ~exempt[outside]
    inside, outside, similarity = inside[chosen], outside[chosen], pairs.similarity[chosen]
    order = np.lexsort((rank[inside], outside))
    outside, begin = np.unique(outside[order], return_index=True)
    return NearDuplicates(items[outside], items[inside[order[begin]]], similarity[order[begin]])


def clusters(pairs: Pairs) -> tuple[Int64, Int64]:
    """Return the items in pairs, (k,) ascending, and the smallest item that a chain of pairs joins each with, (k,)."""
    items = np.unique(np.concatenate([pairs.first, pairs.second]))
    parent = list(range(len(items)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    firsts, seconds = np.searchsorted(items, pairs.first), np.searchsorted(items, pairs.second)
    for one, other in zip(firsts.tolist(), seconds.tolist(), strict=True):
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return items, items[np.array([root(number) for number in range(len(items))], dtype=np.int64)]
