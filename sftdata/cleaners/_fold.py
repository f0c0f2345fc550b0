"""A folded view of a text for matching: what looks the same reads the same, with an offset back to every raw character.

Folded: case, width (`ＡＩ` → `ai`, `，` → `,`), quotes and apostrophes, HTML entities of quotes and spaces, runs of
blanks (one space, or one newline where the run holds one), blanks beside Han characters (`由 OpenAI 训练` →
`由openai训练`), zero-width and control characters (removed), lone surrogates (U+FFFD). Everything is a table look-up
over an array, so that a megabyte costs about ten milliseconds.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Table = NDArray[np.uint32]
"""Code point → folded code point; the last entry stands for every code point beyond the table."""

DELETED = 0xFFFFFFFF
SPACE = 0x20
NEWLINE = 0x0A
REPLACEMENT = 0xFFFD

TABLE_SIZE = 0x1D801
"""Up to the mathematical letters (U+1D7FF), the last block with compatibility forms of Latin letters and digits."""

NEWLINES = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
QUOTES = {"'": "‘’‚‛′`´ʹʻʼˈ＇", '"': "“”„‟″〝〞＂"}
ENTITIES = {
    **dict.fromkeys(("#39", "#x27", "apos", "rsquo", "lsquo"), "'"),
    **dict.fromkeys(("quot", "ldquo", "rdquo"), '"'),
    **dict.fromkeys(("nbsp", "#160"), " "),
}
_ENTITY = re.compile(r"&(#39|#x27|apos|[lr]squo|quot|[lr]dquo|nbsp|#160);", re.IGNORECASE)


_NONE = np.zeros(0, dtype=np.int64)


class Folded(NamedTuple):
    """A folded text, and what was removed from the raw one: few characters, so that offsets are counted when asked for."""

    text: str
    codes: Table
    """The code points of the text."""
    removed: NDArray[np.int64]
    """Raw offsets of the characters that were removed, ascending."""
    gaps: NDArray[np.int64]
    """How many characters of the text stand before each of them."""

    def raw_offset(self, position: int) -> int:
        """Return where a character of the text stands in the raw one; the length of the text is taken to the raw length."""
        return position + int(self.gaps.searchsorted(position, side="right"))

    def folded_offsets(self, raw_offsets: ArrayLike) -> NDArray[np.int64]:
        """Return where raw characters stand in the text; one that was removed, where the next that was kept stands."""
        return np.subtract(raw_offsets, np.searchsorted(self.removed, raw_offsets))


def _folded_code(code: int) -> int:
    """Return what one character folds to; characters whose form is longer than one character stay as they are."""
    char = chr(code)
    category = unicodedata.category(char)
    if char in NEWLINES:
        return NEWLINE
    if category == "Zs" or char == "\t":
        return SPACE
    if category in ("Cc", "Cf") or 0xFE00 <= code <= 0xFE0F:
        return DELETED
    if category == "Cs":
        return REPLACEMENT
    form = unicodedata.normalize("NFKC", char)
    form = (form if len(form) == 1 else char).lower()
    return ord(form) if len(form) == 1 else code


@cache
def fold_table(variants: tuple[tuple[str, str], ...] = ()) -> Table:
    """Return the table, with further pairs of one character each (traditional → simplified) laid over it."""
    if variants:
        table = fold_table().copy()
        for variant, plain in variants:
            table[ord(variant)] = ord(plain)
        return table
    table = np.fromiter(map(_folded_code, range(TABLE_SIZE)), dtype=np.uint32, count=TABLE_SIZE)
    for plain, forms in QUOTES.items():
        for form in forms:
            table[ord(form)] = ord(plain)
    table[-1] = REPLACEMENT
    return table


def variants_of(*mappings: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the pairs of several mappings as `fold_table` takes them, in a stable order."""
    return tuple(sorted({pair for mapping in mappings for pair in mapping.items()}))


def fold(text: str, table: Table) -> Folded:
    """Return the folded view of a text of any length; an unpaired surrogate is no error."""
    raw = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    folded = table.take(raw, mode="clip")
    if "&" in text:
        _fold_entities(text, folded)
    removed, gaps = _NONE, _NONE
    for removal in (_deleted, _repeated_blanks, _blanks_beside_han):
        flags = removal(folded)
        if flags is not None and flags.any():
            places = np.flatnonzero(flags)
            removed = np.sort(np.concatenate((removed, places + np.searchsorted(gaps, places, side="right"))))
            gaps = removed - np.arange(len(removed))
            folded = folded[~flags]
    return Folded(folded.astype("<u4", copy=False).tobytes().decode("utf-32-le"), folded, removed, gaps)


def _deleted(folded: Table) -> NDArray[np.bool_]:
    return np.equal(folded, DELETED)


def _fold_entities(text: str, folded: Table) -> None:
    for match in _ENTITY.finditer(text):
        folded[match.start()] = ord(ENTITIES[match[1].lower()])
        folded[match.start() + 1 : match.end()] = DELETED


def _repeated_blanks(folded: Table) -> NDArray[np.bool_]:
    """Return the blanks that follow a blank; the first of a run becomes a newline if the run holds one."""
    newline = folded == NEWLINE
    blank = newline | (folded == SPACE)
    repeated = np.zeros(len(folded), dtype=np.bool_)
    np.logical_and(blank[1:], blank[:-1], out=repeated[1:])
    late = np.flatnonzero(repeated[1:] & newline[1:] & ~newline[:-1]) + 1
    if len(late):
        run_starts = np.flatnonzero(blank & ~repeated)
        folded[run_starts[np.searchsorted(run_starts, late, side="right") - 1]] = NEWLINE
    return repeated


def _blanks_beside_han(folded: Table) -> NDArray[np.bool_] | None:
    """Return the spaces beside a Han character or CJK punctuation, where they mean nothing; None if none is there."""
    han = (folded > 0x3000) & (folded < 0xA000)
    if not han.any():
        return None
    beside = np.zeros(len(folded), dtype=np.bool_)
    beside[1:] |= han[:-1]
    beside[:-1] |= han[1:]
    beside &= folded == SPACE
    return beside
