"""Where the phrases and anchors of slop rules stand in a chunk of texts, and which of these places can come to a hit.

All of it is done on arrays over the chunk: a place that is discarded here costs no Python object. What is discarded could
not have come to a hit (`Sieve.places` says why); what is kept is looked at one by one in `_matching.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sftdata.cleaners._rules import Rule
from sftdata.cleaners._text import WINDOW_CHARS, Positions, is_unit

SEPARATOR = "\uffff"
"""Between texts of a chunk: no character, so no pattern holds it; texts are told apart by their lengths, not by it."""

SENTENCE_MARKS = "!?。…\n" + SEPARATOR
"""What ends a sentence by itself."""

AFTER_STOP = " .\n\"')" + SEPARATOR
"""What lets a full stop before it end one."""

NO_SET = -1

Codes = NDArray[np.uint32]
Flags = NDArray[np.bool_]


class Places(NamedTuple):
    """Places in a folded chunk, a row each, in the order of texts, rules and ends."""

    texts: Positions
    rules: Positions
    starts: Positions
    """Of the phrase or anchor."""
    ends: Positions
    begins: Positions
    """Of the sentence round it, with the mark before it."""
    stops: Positions
    befores: Positions
    """Where the sentence before that one starts."""

    def where(self, kept: Flags | Positions) -> Places:
        """Return the places that a mask or indexes choose."""
        return Places(*(column[kept] for column in self))


class Lists(NamedTuple):
    """One list of numbers for each pattern, end to end."""

    firsts: Positions
    """Where the list of a pattern begins; one more than there are lists."""
    values: Positions

    def of(self, patterns: Positions) -> tuple[Positions, Positions]:
        """Return for the numbers of all lists of these patterns the index into `patterns`, and the number."""
        firsts = self.firsts[patterns]
        sizes = self.firsts[patterns + 1] - firsts
        which = np.repeat(np.arange(len(patterns)), sizes)
        before = np.cumsum(sizes) - sizes
        return which, self.values[np.arange(len(which)) + (firsts - before)[which]]


@dataclass(frozen=True)
class Sieve:
    """What of the rules decides on a place without looking at the text."""

    patterns: tuple[str, ...]
    """Of all rules, and the phrases that stand beside them."""
    rules: Lists
    """By pattern: the rules that it is a phrase or anchor of."""
    sets: Lists
    """By pattern: the sets of phrases beside an anchor that hold it."""
    set_of: Positions
    """By rule, like all that follows; `NO_SET` where it needs no phrase beside an anchor."""
    wide: Flags
    """Whether a match may begin in the sentence before."""
    first_only: Flags
    """Whether a match begins where the text begins."""
    prefix: Flags
    density: NDArray[np.float64]

    def places(self, codes: Codes, bounds: Positions, found: Sequence[tuple[int, int, int]]) -> Places:
        """Return the places that can come to a hit, of what the automaton found (pattern, start, end) in a folded chunk.

        `bounds` are where its texts start, and where one more would. Discarded are those (1) of `prefix` rules behind three
        ends of sentences, (2) of a lexicon, where a text has fewer than its density asks for, (3) of sentences, joined with
        those that they overlap, in which no phrase stands beside the anchors, or which do not hold the start of a text where
        a match must.
        """
        matches = np.fromiter(chain.from_iterable(found), dtype=np.int64, count=3 * len(found)).reshape(-1, 3).T
        which, rules = self.rules.of(matches[0])
        starts, ends = matches[1][which], matches[2][which]
        texts = np.searchsorted(bounds, starts, side="right") - 1
        origins, limits = bounds[texts], bounds[texts + 1] - 1
        breaks = sentence_breaks(codes)
        befores, begins, stops = _windows(breaks, starts, ends)
        places = Places(
            *(texts, rules, starts, ends),
            *(np.maximum(begins, origins), np.minimum(stops, limits), np.maximum(befores, origins)),
        )
        kept = self._early_enough(places, codes, breaks, bounds) & self._dense_enough(places, codes, bounds)
        places = places.where(kept) if not kept.all() else places
        order = np.argsort(places.rules, kind="stable")
        places = places.where(order[self._beside(places.where(order), bounds, matches)])
        return places.where(np.lexsort((places.rules, places.texts)))

    def _early_enough(self, places: Places, codes: Codes, breaks: Positions, bounds: Positions) -> Flags:
        early = ~self.prefix[places.rules]
        if not early.all():
            ends = np.append(_certain_ends(codes, breaks), [len(codes)] * 3)
            early |= places.starts < ends[np.searchsorted(ends, bounds[places.texts]) + 2]
        return early

    def _dense_enough(self, places: Places, codes: Codes, bounds: Positions) -> Flags:
        dense = np.ones(len(places.rules), dtype=np.bool_)
        counted = np.flatnonzero(self.density[places.rules])
        if len(counted):
            keys = places.texts[counted] * len(self.density) + places.rules[counted]
            keys, inverse, num_found = np.unique(keys, return_inverse=True, return_counts=True)
            texts, rules = np.divmod(keys, len(self.density))
            spans = zip(bounds[texts].tolist(), bounds[texts + 1].tolist(), strict=True)
            num_units = np.array([np.count_nonzero(is_unit(codes[begin:end])) + 1 for begin, end in spans])
            dense[counted] = (num_found >= self.density[rules] * num_units / 1000)[inverse]
        return dense

    def _beside(self, places: Places, bounds: Positions, matches: Positions) -> Flags:
        """Return which places, in the order of rules, stand in a run of overlapping sentences that can hold a match."""
        if not len(places.rules):
            return np.zeros(0, dtype=np.bool_)
        begins = np.where(self.wide[places.rules], places.befores, places.begins)
        lane = int(bounds[-1]) + 1
        reach = np.maximum.accumulate(places.stops + places.rules * lane)
        new = np.append(True, begins[1:] + places.rules[1:] * lane >= reach[:-1])
        firsts = np.flatnonzero(new)
        begins = np.minimum.reduceat(begins, firsts)
        rules, texts = places.rules[firsts], places.texts[firsts]
        stops = reach[np.append(firsts[1:] - 1, len(reach) - 1)] - rules * lane
        sets = self.set_of[rules]
        which, owners = self.sets.of(matches[0])
        besides = np.append(np.sort(owners * lane + matches[1][which]), np.iinfo(np.int64).max)
        nearest = besides[np.searchsorted(besides, sets * lane + begins)]
        possible = (sets == NO_SET) | (nearest < sets * lane + stops)
        possible &= ~self.first_only[rules] | (begins == bounds[texts])
        kept: Flags = possible[np.cumsum(new) - 1]
        return kept


def sieve_of(rules: Sequence[Rule]) -> Sieve:
    """Return the sieve of rules."""
    besides = list(dict.fromkeys(rule.beside_phrases for rule in rules if rule.beside_phrases))
    patterns = tuple(dict.fromkeys(phrase for phrases in (*(rule.patterns for rule in rules), *besides) for phrase in phrases))
    return Sieve(
        patterns=patterns,
        rules=_lists(patterns, (rule.patterns for rule in rules)),
        sets=_lists(patterns, besides),
        set_of=np.array([besides.index(rule.beside_phrases) if rule.beside_phrases else NO_SET for rule in rules], np.int64),
        wide=np.array([rule.sentences > 1 for rule in rules], np.bool_),
        first_only=np.array([rule.at_start_only for rule in rules], np.bool_),
        prefix=np.array([rule.where == "prefix" for rule in rules], np.bool_),
        density=np.array([rule.density for rule in rules], np.float64),
    )


def _lists(patterns: Sequence[str], holders: Iterable[tuple[str, ...]]) -> Lists:
    """Return by pattern the numbers of those that hold it."""
    held: dict[str, list[int]] = {pattern: [] for pattern in patterns}
    for number, phrases in enumerate(holders):
        for phrase in phrases:
            held[phrase].append(number)
    firsts = np.cumsum([0, *map(len, held.values())], dtype=np.int64)
    return Lists(firsts, np.array([number for numbers in held.values() for number in numbers], dtype=np.int64))


def _is_any(codes: NDArray[np.unsignedinteger[Any]], chars: str) -> Flags:
    """Return which codes are one of a few characters: a comparison for each is faster than a table look-up."""
    flags: Flags = codes == ord(chars[0])
    for char in chars[1:]:
        flags |= codes == ord(char)
    return flags


def sentence_breaks(codes: Codes) -> Positions:
    """Return the marks after which a sentence may start, in order; the start and the end of the chunk are among them."""
    low_bytes = codes.astype(np.uint8)  # a quarter of the memory to go through for what most characters are not
    marks = np.flatnonzero(_is_any(low_bytes, "".join(chr(ord(mark) & 0xFF) for mark in SENTENCE_MARKS + ".")))
    here, following = codes[marks], codes[np.minimum(marks + 1, len(codes) - 1)]
    ending = _is_any(here, SENTENCE_MARKS) | ((here == ord(".")) & _is_any(following, AFTER_STOP))
    breaks = np.append(marks[ending], len(codes))
    return breaks if breaks[0] == 0 else np.append(0, breaks)


def _certain_ends(codes: Codes, breaks: Positions) -> Positions:
    """Return the breaks that lie in a match of `SENTENCE_END` each: line ends, first marks of runs, last full stops."""
    breaks = breaks[:-1]
    here, following = codes[breaks], codes[np.minimum(breaks + 1, len(codes) - 1)]
    run = _is_any(here, "!?。…")
    run &= ~_is_any(codes[np.maximum(breaks - 1, 0)], "!?。…") | (breaks == 0)
    certain: Flags = run | (here == ord("\n")) | ((here == ord(".")) & _is_any(following, " \n"))
    return breaks[certain]


def _windows(breaks: Positions, starts: Positions, ends: Positions) -> tuple[Positions, Positions, Positions]:
    """Return begin of the sentence before, begin (with the mark before it) and end of those round spans of a folded chunk."""
    indexes = np.searchsorted(breaks, starts, side="right") - 1
    begins, before = breaks[indexes], breaks[np.maximum(indexes - 1, 0)]
    stops = breaks[np.minimum(np.searchsorted(breaks, ends - 1), len(breaks) - 1)] + 1
    least = starts - WINDOW_CHARS
    return np.maximum(before, least), np.maximum(begins, least), np.minimum(stops, ends + WINDOW_CHARS)
