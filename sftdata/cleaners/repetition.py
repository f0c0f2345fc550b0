"""Drop texts that repeat themselves: lines, paragraphs, n-grams."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from sftdata.cleaners._spans import EVIDENCE_CHARS, Answer, answer_each, check_roles
from sftdata.errors import RecipeError
from sftdata.records import Drop
from sftdata.registry import cleaner
from sftdata.shingling import Units, find_grams, find_units

# Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training Gopher" (2021), table A1.
LINES, LINE_CHARACTERS = 0.30, 0.20
PARAGRAPHS, PARAGRAPH_CHARACTERS = 0.30, 0.20
TOP_GRAMS = {2: 0.20, 3: 0.18, 4: 0.16}
"""Words → share of the characters that the most frequent n-gram may cover."""
REPEATED_GRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""Words → share of the characters that all repeated n-grams together may cover, their first occurrences not counted."""

CHARACTERS_OF_A_WORD = 2
"""Characters that stand for a word in scripts without spaces: n-grams are so much longer there. Chinese words have 1.7 on
average, but names and set phrases of five characters recur in any good text."""

FEWEST_LINES = 4
"""A share of fewer lines says nothing: three times 是。 is an answer."""


class _Found(NamedTuple):
    """A share that is above its limit."""

    reason: str
    rule: str
    evidence: str


def _no_files(*, min_words: int = 100, roles: list[str] | None = None) -> tuple[str, ...]:
    """Refuse what cannot be meant when the recipe is read; the step reads no files."""
    check_roles("repetition", roles)
    if min_words < 0:
        raise RecipeError(f"repetition: min_words must be 0 or more, not {min_words}")
    return ()


@cleaner(batched=True, assets=_no_files)
def repetition(spans: pa.Table, *, min_words: int = 100, roles: list[str] | None = None) -> list[Answer]:
    """Drop samples with a text that repeats itself, by the rules and thresholds of Gopher.

    In scripts without spaces two characters count as a word. Texts of fewer than `min_words` words stay: Gopher took documents
    from 50 on, but in an answer of 50 words one phrase that comes twice is above the limits. `roles` are the roles that are
    looked at, by default assistant, target and text. Reasons: `repeated_lines`, `repeated_paragraphs`, `repeated_ngrams`; the
    rule names the limit, the evidence is what is repeated. Raises RecipeError for unknown roles and a negative limit.
    """
    _no_files(min_words=min_words, roles=roles)
    return answer_each(spans, roles, lambda text: _judge(text, min_words))


def _judge(text: str, min_words: int) -> Answer:
    if len(text) < min_words:
        return text
    units = find_units([text])
    factor = CHARACTERS_OF_A_WORD if 2 * np.count_nonzero(units.spaceless) > len(units.hashes) else 1
    if len(units.hashes) < max(min_words, 1) * factor:
        return text
    found = next(_excesses(text, units, factor), None)
    return text if found is None else Drop(*found)


def _excesses(text: str, units: Units, factor: int) -> Iterator[_Found]:
    yield from _repeated(text.split("\n"), "repeated_lines", ("lines", LINES, LINE_CHARACTERS))
    paragraphs = re.split(r"\n\s*\n", text)
    yield from _repeated(paragraphs, "repeated_paragraphs", ("paragraphs", PARAGRAPHS, PARAGRAPH_CHARACTERS))
    length = units.end - units.start
    for size, limit in (*TOP_GRAMS.items(), *REPEATED_GRAMS.items()):
        yield from _repeated_grams(text, units, length, size * factor, limit, size in TOP_GRAMS)


def _repeated(pieces: list[str], reason: str, limits: tuple[str, float, float]) -> Iterator[_Found]:
    """Yield what is wrong with lines or paragraphs: the share of copies, and of their characters."""
    name, most, most_characters = limits
    stripped = [piece.strip() for piece in pieces]
    counts = Counter(piece for piece in stripped if piece)
    total = counts.total()
    if total < FEWEST_LINES or total == len(counts):
        return
    copies = total - len(counts)
    characters = sum((count - 1) * len(piece) for piece, count in counts.items())
    top = max(counts, key=lambda piece: counts[piece])[:EVIDENCE_CHARS]
    if copies > most * total:
        yield _Found(reason, f"{name}>{most:g}", top)
    if characters > most_characters * sum(count * len(piece) for piece, count in counts.items()):
        yield _Found(reason, f"{name}_characters>{most_characters:g}", top)


def _repeated_grams(
    text: str, units: Units, length: np.ndarray, size: int, limit: float, only_top: bool
) -> Iterator[_Found]:
    """Yield what is wrong with the n-grams of a size: the share that the most frequent covers, or that all repeated ones do."""
    hashes, first = find_grams(units, size)
    if not len(hashes):
        return
    _, earliest, inverse, counts = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    most = int(counts.max())
    if most < 2:
        return
    repeated = inverse == int(np.argmax(counts))
    if not only_top:
        repeated = earliest[inverse] != np.arange(len(hashes))
    covered = np.zeros(len(length) + 1, dtype=np.int64)
    np.add.at(covered, first[repeated], 1)
    np.add.at(covered, first[repeated] + size, -1)
    share = float(length[np.cumsum(covered[:-1]) > 0].sum() / length.sum())
    if share > limit:
        place = int(first[int(np.flatnonzero(repeated)[0])])
        evidence = text[int(units.start[place]) - 1 : int(units.end[place + size - 1]) - 1][:EVIDENCE_CHARS]
        yield _Found("repeated_ngrams", f"{'top' if only_top else 'repeated'}_{size}_grams>{limit:g}", evidence)
