"""One step of deduplication: from the signatures of all items to those that go, each with the one that stays.

Digests are sorted in portions of bounded size, and band keys one column at a time; in memory for all rows is one byte each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from sftdata.dedup.candidates import similar_pairs
from sftdata.dedup.items import Items, digest_words
from sftdata.dedup.survivors import Int64, NearDuplicates, Pairs, against_reference, exact, near
from sftdata.errors import DataError

SORTED_DIGESTS = 1 << 21
"""Digests that are sorted at once: 32 MiB, and about as much again for their order."""


class Sources(NamedTuple):
    """Where the rows of a build come from: part_ends, (parts,) the row after the last of each; names, one for each part."""

    part_ends: Int64
    names: list[str]

    def number(self, rows: Int64, ranks: dict[str, int]) -> Int64:
        """Return the rank of the source of each row, (m,)."""
        of_part = np.array([ranks[name] for name in self.names], dtype=np.int64)
        return of_part[np.searchsorted(self.part_ends, rows, side="right")]


class Decider:
    """Decides one step: which of `items` go. `step`: `Dedup.settings()`."""

    def __init__(self, step: dict[str, Any], items: Items, sources: Sources) -> None:
        self.step = step
        self.items = items
        self.sources = sources

    def decide(self, alive: npt.NDArray[np.bool_], pairs: Pairs | None) -> NearDuplicates:
        """Return the items that go, of the rows that are alive, (rows,). pairs: what `similar` gave, under minhash."""
        if self.step["score"] not in (None, "length"):
            self._check_score()
        return self._exact(alive) if pairs is None else self._near(pairs)

    def similar(self, alive: npt.NDArray[np.bool_]) -> Pairs:
        """Return the pairs of similar items."""
        bands = self.step["bands"][0]
        return similar_pairs(self.items, alive, threshold=self.step["threshold"], num_bands=bands)

    def _check_score(self) -> None:
        some = any(column.null_count < len(column) for _, _, [column] in self.items.scan("score"))
        if len(self.items) and not some:
            field = self.step["score"]
            raise DataError(f"dedup.score: no record has a number in a field {field!r}; name another field, or length")

    def _rank(self, items: Int64) -> Int64:
        """Return the place of each item among all given, best first: source priority, then score, then order. (m,) → (m,)."""
        keys: list[npt.NDArray[np.generic]] = [items]
        if self.step["score"] is not None:
            keys.append(-np.nan_to_num(self.items.numbers("score", items), nan=-np.inf))
        if self.step["priority"]:
            listed = self.step["priority"]
            ranks = {name: listed.index(name) if name in listed else len(listed) for name in self.sources.names}
            keys.append(self.sources.number(self.items.rows(items), ranks))
        rank = np.empty(len(items), dtype=np.int64)
        rank[np.lexsort(keys)] = np.arange(len(items))
        return rank

    def _exempt(self, items: Int64) -> npt.NDArray[np.bool_]:
        """Return the items one of whose texts stands in the allow list, (m,)."""
        allowed = {xxhash.xxh3_64_intdigest(text.encode("utf-8")) for text in self.step["allow"]}
        if not allowed:
            return np.zeros(len(items), dtype=bool)
        return np.array([not allowed.isdisjoint(texts) for texts in self.items.take("text_digests", items)], dtype=bool)

    def _reference(self, items: Int64) -> npt.NDArray[np.bool_] | None:
        """Return the items of the sources that others are compared against, (m,); None without such sources."""
        if not self.step["against"]:
            return None
        ranks = {name: int(name in self.step["against"]) for name in self.sources.names}
        inside: npt.NDArray[np.bool_] = self.sources.number(self.items.rows(items), ranks) == 1
        return inside

    def _exact(self, alive: npt.NDArray[np.bool_]) -> NearDuplicates:
        gone, stay = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for items, digests in self._copies(alive):
            found = exact(
                digests, self._rank(items), max_copies=self.step["max_copies"], reference=self._reference(items)
            )
            surplus = np.flatnonzero(found.surplus)
            surplus = surplus[~self._exempt(items[surplus])]
            gone.append(items[surplus])
            stay.append(items[found.survivor[surplus]])
        item, survivor = np.concatenate(gone), np.concatenate(stay)
        order = np.argsort(item)
        return NearDuplicates(item[order], survivor[order], np.ones(len(item), dtype=np.float32))

    def _copies(self, alive: npt.NDArray[np.bool_]) -> Iterator[tuple[Int64, npt.NDArray[np.uint64]]]:
        """Yield, portion by portion, the items whose digest others have too, ascending, and their digests (m, 2)."""
        num_passes = -(-len(self.items) // SORTED_DIGESTS)
        for number in range(num_passes):
            numbers, pieces = [], []
            for first, rows, [column] in self.items.scan("digest"):
                words = digest_words(column)
                wanted = np.flatnonzero(alive[rows] & (words[:, 1] % np.uint64(num_passes) == number))
                numbers.append(wanted + first)
                pieces.append(words[wanted])
            items, digests = np.concatenate(numbers), np.concatenate(pieces)
            folded = np.sort(digests[:, 0])
            twice = np.unique(folded[1:][folded[1:] == folded[:-1]])
            shared = np.isin(digests[:, 0], twice)
            yield items[shared], digests[shared]

    def _near(self, pairs: Pairs) -> NearDuplicates:
        items = np.unique(np.concatenate([pairs.first, pairs.second]))
        rank, exempt, reference = self._rank(items), self._exempt(items), self._reference(items)
        if reference is not None:
            return against_reference(pairs, items, rank, exempt=exempt, reference=reference)
        return near(pairs, items, rank, exempt=exempt, max_copies=self.step["max_copies"])
