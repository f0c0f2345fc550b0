"""MinHash: signatures of sets, and bands of them that sets of a given likeness share.

A. Broder, "On the resemblance and containment of documents" (1997): the smallest member of a set under a random permutation is
that of another set with a probability that is their Jaccard similarity s. Bands of r permutations agree with probability s**r,
so that of b bands one does with 1 - (1 - s**r)**b (J. Leskovec, A. Rajaraman, J. Ullman, "Mining of Massive Datasets", 3.4).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sftdata.shingling import Sets, mix64

UInt32 = npt.NDArray[np.uint32]

CHUNK = 1 << 14
"""Members that are permuted at once: 64 KiB, which stays in a core's cache."""
FOUND_SHARE = 0.99
"""Share of the pairs at the threshold itself that some band brings together; above it the share rises quickly."""


class Bands(NamedTuple):
    """How a signature is cut: `number` bands of `rows` permutations each."""

    number: int
    rows: int


def choose_bands(threshold: float, num_permutations: int) -> Bands:
    """Return the longest bands that still bring together 99 % of the pairs whose Jaccard similarity is `threshold`.

    Long bands meet seldom by chance, and what they bring together is compared exactly afterwards.
    """
    for rows in range(num_permutations, 1, -1):
        number = num_permutations // rows
        if 1 - (1 - threshold**rows) ** number >= FOUND_SHARE:
            return Bands(number, rows)
    return Bands(num_permutations, 1)


@cache
def _permutations(number: int) -> tuple[UInt32, UInt32]:
    """Return factors (odd) and summands of permutations of the 32-bit numbers, `x -> factor * x + summand` modulo 2**32."""
    numbers = mix64(np.arange(1, 2 * number + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    return (numbers[:number] | np.uint64(1)).astype(np.uint32), numbers[number:].astype(np.uint32)


def signatures(sets: Sets, *, num_permutations: int) -> UInt32:
    """Return the smallest member of every set under each permutation, (number of sets, num_permutations).

    An empty set has the largest number everywhere. The members must be hashes: uniform numbers of 32 bits.
    """
    num_sets = len(sets.offsets) - 1
    found = np.full((num_permutations, num_sets), 0xFFFFFFFF, dtype=np.uint32)
    filled = np.flatnonzero(np.diff(sets.offsets))
    starts = sets.offsets[filled]
    factors, summands = _permutations(num_permutations)
    buffer = np.empty(CHUNK, dtype=np.uint32)
    for first in range(0, len(sets.values), CHUNK):
        members = sets.values[first : first + CHUNK]
        begin = int(np.searchsorted(starts, first, side="right")) - 1
        end = int(np.searchsorted(starts, first + len(members)))
        local = np.maximum(starts[begin:end] - first, 0)
        rows, permuted = filled[begin:end], buffer[: len(members)]
        whole = slice(int(rows[0]), int(rows[-1]) + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows
        for number in range(num_permutations):
            np.multiply(members, factors[number], out=permuted)
            np.add(permuted, summands[number], out=permuted)
            smallest = np.minimum.reduceat(permuted, local)
            found[number, whole] = np.minimum(found[number, whole], smallest)
    return found.T


def band_keys(signature: UInt32, bands: Bands) -> list[UInt32]:
    """Return one key of 32 bits for each band of every signature: `bands.number` columns (n,)."""
    keys = []
    for number in range(bands.number):
        key = np.full(len(signature), number, dtype=np.uint64)
        for row in range(number * bands.rows, (number + 1) * bands.rows):
            key = mix64(key ^ signature[:, row])
        keys.append((key >> np.uint64(32)).astype(np.uint32))
    return keys
