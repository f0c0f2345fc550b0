"""Units and n-grams of texts as numbers: words, or single characters where a script writes no spaces.

Near-duplicates and contamination are found on these numbers. All is columns: a batch of texts is one array of code points, and
every n-gram costs a few array operations, whatever n is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]

SEPARATOR, WORD, CHARACTER = 0, 1, 2
"""What a code point is: between units, part of a word, a unit by itself."""

SPACELESS = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # 々 〆 〇
    (0x3041, 0x312F),  # kana, bopomofo
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
    (0xFF66, 0xFF9F),  # half-width katakana
)
"""Scripts that are written without spaces between words, as ranges of code points, both ends included."""

IDEOGRAPHS = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x20000, 0x323AF))
"""Blocks of letters without case or compatibility forms: they need no look at each character."""

TABLE_SIZE = 0x323B0
"""Code points beyond it count as separators: emoji aside, nothing there is written in running text."""

_BASE = 0x9E3779B97F4A7C15
"""An odd number, so that it has an inverse modulo 2**64."""
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Units(NamedTuple):
    """The units of a batch of n texts, in order.

    hashes: (u,) 64 bits each, equal for equal units (case and width folded). offsets: (n + 1,) where the units of each text
    begin. start, end: (u,) places in the batch, in code points. spaceless: (u,) units that
    are single characters. text_offsets: (n + 1,) where each text begins; one code point lies between two texts.
    """

    hashes: UInt64
    offsets: Int64
    start: Int64
    end: Int64
    spaceless: npt.NDArray[np.bool_]
    text_offsets: Int64


class Grams(NamedTuple):
    """Windows of units: hashes (w,) and first, (w,) the unit that each begins with, ascending."""

    hashes: UInt64
    first: Int64


def mix64(values: UInt64) -> UInt64:
    """Apply the finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014), a bijection of 64-bit numbers. (n,) → (n,)."""
    values = (values ^ (values >> np.uint64(30))) * _MULTIPLIERS[0]
    values = (values ^ (values >> np.uint64(27))) * _MULTIPLIERS[1]
    return values ^ (values >> np.uint64(31))


@cache
def _table() -> npt.NDArray[np.uint32]:
    """Return a number for every code point, of 30 random bits of its folded form above 2 bits of what it is."""
    kinds = np.zeros(TABLE_SIZE + 1, dtype=np.uint64)
    folded = np.arange(TABLE_SIZE + 1, dtype=np.uint64)
    known = np.zeros(TABLE_SIZE, dtype=bool)
    for first, last in IDEOGRAPHS:
        kinds[first : last + 1] = WORD
        known[first : last + 1] = True
    known[0xD7A4:0xF900] = True  # surrogates and private use: separators
    for code in np.flatnonzero(~known).tolist():
        char = chr(code)
        if char.isalnum() or unicodedata.category(char)[0] == "M":
            form = unicodedata.normalize("NFKC", char).lower()
            folded[code] = ord(form) if len(form) == 1 else code
            kinds[code] = WORD
    for first, last in SPACELESS:
        piece = kinds[first : last + 1]
        piece[piece == WORD] = CHARACTER
    return (mix64(folded + np.uint64(1)) << np.uint64(2) | kinds).astype(np.uint32)


@cache
def _powers(size: int) -> tuple[UInt64, UInt64]:
    """Return the powers of the base and of its inverse modulo 2**64, (size,) each."""
    found = []
    for base in (_BASE, pow(_BASE, -1, 1 << 64)):
        factors = np.full(size, base, dtype=np.uint64)
        factors[0] = 1
        found.append(np.multiply.accumulate(factors))
    return found[0], found[1]


def _powers_for(size: int) -> tuple[UInt64, UInt64]:
    forward, backward = _powers(max(1 << 16, 1 << (size - 1).bit_length() if size else 0))
    return forward[:size], backward[:size]


def _window_hashes(values: npt.NDArray[np.unsignedinteger], first: Int64, last: Int64) -> UInt64:
    """Return the polynomial hash of `values[first[i]:last[i]]` for every i: sums of prefixes, moved to a common power."""
    forward, backward = _powers_for(len(values) + 1)
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * forward[:-1], out=sums[1:])
    return mix64((sums[last] - sums[first]) * backward[first])


def find_units(texts: Sequence[str]) -> Units:
    """Cut texts into units: runs of letters, marks and digits; in scripts without spaces every character."""
    joined = "\n" + "\n".join(texts) + "\n"
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    values = _table().take(codes, mode="clip")
    kind = (values & np.uint32(3)).astype(np.uint8)
    is_word = kind == WORD
    borders = np.flatnonzero(is_word[1:] != is_word[:-1]) + 1
    start, end = borders[0::2], borders[1::2]
    single = np.flatnonzero(kind == CHARACTER)
    if len(single):
        start = np.sort(np.concatenate([start, single]))
        end = np.sort(np.concatenate([end, single + 1]))
    text_offsets = np.ones(len(texts) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)) + 1, out=text_offsets[1:])
    text_offsets[1:] += 1
    hashes = _window_hashes(values, start, end)
    offsets = np.searchsorted(start, text_offsets).astype(np.int64)
    return Units(hashes, offsets, start, end, kind[start] == CHARACTER, text_offsets)


def find_grams(units: Units, size: int) -> Grams:
    """Return all windows of `size` units that lie inside a text."""
    num_units = np.diff(units.offsets)
    num_windows = np.maximum(num_units - size + 1, 0)
    first = np.arange(int(num_windows.sum()), dtype=np.int64)
    first += np.repeat(units.offsets[:-1] - np.cumsum(num_windows) + num_windows, num_windows)
    return Grams(_window_hashes(units.hashes, first, first + size), first)


class Sets(NamedTuple):
    """Sets of 32-bit numbers: those of set i are `values[offsets[i]:offsets[i + 1]]`, ascending, each once.

    Odd numbers are shingles of answers, even ones of prompts.
    """

    values: npt.NDArray[np.uint32]
    offsets: Int64


SLICE = 1 << 17
"""Characters that are shingled at once: their arrays stay in a core's cache, which makes it half as fast again."""


def shingle_sets(
    texts: Sequence[str], owner: Int64, salt: UInt64, is_answer: npt.NDArray[np.bool_], *, num_sets: int, size: int
) -> Sets:
    """Return the sets of shingles that texts make together: windows of `size` units inside a text.

    A text of fewer units counts as one shingle, the text as it is: 是。 and 是！ are not alike, nor are two emoji.
    owner: (n,) the set of each text, below `num_sets`. salt: (n,) what keeps equal shingles apart, as a role does.
    is_answer: (n,) texts whose shingles are odd numbers.
    """
    ends = np.cumsum(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)))
    pieces = [np.zeros(0, dtype=np.uint64)]
    first = 0
    while first < len(texts):
        before = int(ends[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends, before + SLICE, side="right")), first + 1)
        pieces.append(_codes(texts[first:last], owner[first:last], salt[first:last], size, is_answer[first:last]))
        first = last
    codes = np.concatenate(pieces)
    codes.sort()
    fresh = np.ones(len(codes), dtype=bool)
    fresh[1:] = codes[1:] != codes[:-1]
    codes = codes[fresh]
    offsets = np.searchsorted(codes, np.arange(num_sets + 1, dtype=np.uint64) << np.uint64(32)).astype(np.int64)
    return Sets(codes.astype(np.uint32), offsets)


def _codes(
    texts: Sequence[str], owner: Int64, salt: UInt64, size: int, is_answer: npt.NDArray[np.bool_]
) -> UInt64:
    """Return a number for each shingle: the set above, 32 bits of the shingle's hash below."""
    units = find_units(texts)
    grams = find_grams(units, size)
    num_units = np.diff(units.offsets)
    short = np.flatnonzero(num_units < size)
    digests = [xxhash.xxh3_64_intdigest(texts[index].encode("utf-8", "surrogatepass")) for index in short.tolist()]
    hashes = np.concatenate([grams.hashes, np.array(digests, dtype=np.uint64)])
    text = np.concatenate([np.repeat(np.arange(len(texts)), np.maximum(num_units - size + 1, 0)), short])
    shingle = mix64(hashes ^ salt[text]) >> np.uint64(32) & np.uint64(0xFFFFFFFE) | is_answer[text]
    codes: UInt64 = owner.astype(np.uint64)[text] << np.uint64(32) | shingle
    return codes
