"""Find the hits of slop rules in a batch of texts: one Aho-Corasick pass over all of them, care only for those it finds.

A text that holds no phrase and no anchor of any rule costs its share of a table look-up and of an automaton pass.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sftdata.cleaners._fold import Table, fold, fold_table, variants_of
from sftdata.cleaners._rules import Pack, Request, Rule
from sftdata.cleaners._voice import PROTECTED, is_reported

CHUNK_CHARS = 1 << 19
"""Texts are joined up to about this many characters a pass: arrays stay in the cache, memory stays flat."""

SEPARATOR = "\uffff"
"""Between texts of a pass: no character, so no pattern holds it; texts are told apart by their lengths, not by it."""

SENTENCE_END = re.compile(r"""(?:[!?。…]+|\.+(?=["')\]*_]*(?:\s|$)))["')\]」』】*_]*[ ]?|\n""")
"""What ends a sentence of a folded text; a newline always does."""

SENTENCE_MARKS = "!?。…\n" + SEPARATOR
_MARKS = np.isin(np.arange(0x10001), [ord(mark) for mark in SENTENCE_MARKS])
_AFTER_STOP = np.isin(np.arange(0x10001), [ord(mark) for mark in " .\n\"')" + SEPARATOR])
"""By code point, the last entry for all beyond: what ends a sentence by itself, and what lets a full stop before it end one."""

WINDOW_CHARS = 400
"""A regex is tried on the sentence round an anchor, at most this far to either side: a document costs what its anchors cost."""

REPETITIVE = 64
"""Sentences with an anchor of a rule in one text, from which on those without a match are remembered."""

LEAD_IN = " \t\n\"'(*_#>-:[「『“【"
"""What may stand between the start of a sentence and its first word."""

_NO_ACTIONS: Mapping[str, str] = {}

Positions = NDArray[np.int64]


class Hit(NamedTuple):
    """A rule that fired, and where in the raw text."""

    rule: Rule
    start: int
    end: int


class Found(NamedTuple):
    """A phrase or anchor in a folded text, and the sentence round it."""

    start: int
    end: int
    window: tuple[int, int]
    before: int
    """Where the sentence before that one starts."""


FoundByRule = dict[int, list[Found]]


class Text:
    """One text with a hit: its folded view, and what of its structure the hits ask for."""

    def __init__(self, raw: str, text: str, offsets: Positions, origin: int) -> None:
        self.raw = raw
        self.text = text
        """The folded view."""
        self._offsets = offsets
        self._origin = origin

    @cached_property
    def _protected(self) -> tuple[list[int], list[int]]:
        spans = [match.span() for match in PROTECTED.finditer(self.raw)]
        return [start for start, _ in spans], [end for _, end in spans]

    @cached_property
    def sentence_starts(self) -> list[int]:
        """Folded offsets at which sentences start; the first is 0."""
        ends = (match.end() for match in SENTENCE_END.finditer(self.text))
        return [0, *(end for end in ends if end < len(self.text))]

    def raw_position(self, position: int) -> int:
        """Return the raw offset of a folded one; the length of the folded text stands for the length of the raw one."""
        return int(self._offsets[position]) - self._origin if position < len(self.text) else len(self.raw)

    def raw_span(self, start: int, end: int) -> tuple[int, int]:
        """Return the raw span of a folded one that is not empty."""
        return self.raw_position(start), self.raw_position(end - 1) + 1

    def sentence_span(self, position: int) -> tuple[int, int]:
        """Return the raw span of the sentence that holds a folded offset, with the blanks that follow it."""
        start = self.sentence_starts[bisect_right(self.sentence_starts, position) - 1]
        return self.raw_position(start), self.raw_position(self._sentence_end(position))

    def folded_position(self, raw_position: int) -> int:
        """Return the folded offset of a raw one."""
        return int(np.searchsorted(self._offsets, raw_position + self._origin))

    def accepts(self, rule: Rule, start: int, end: int) -> bool:
        """Return whether a folded match meets the rule's boundary and place, outside code, quotations and reported speech."""
        if not self._meets_boundary(rule.boundary, start, end):
            return False
        if not self.in_place(rule.where, start) or not self._is_own_voice(start):
            return False
        return rule.kind == "lexicon" or not is_reported(self.text, start, end, min(self._sentence_end(start), end + WINDOW_CHARS))

    def _sentence_end(self, position: int) -> int:
        index = bisect_right(self.sentence_starts, position)
        return self.sentence_starts[index] if index < len(self.sentence_starts) else len(self.text)

    def _meets_boundary(self, boundary: str, start: int, end: int) -> bool:
        text = self.text
        if boundary == "none":
            return True
        following = text[end : end + 1]
        if _is_word(following) and _is_word(text[end - 1]):
            return False
        if boundary == "cjk":
            return not ("㐀" <= following <= "鿿")
        return not (_is_word(text[start - 1 : start]) and _is_word(text[start]))

    def in_place(self, where: str, start: int) -> bool:
        """Return whether a folded match that starts there stands where the rule wants it."""
        if where == "anywhere":
            return True
        if where == "prefix":
            return start < self._prefix_end
        index = bisect_right(self.sentence_starts, start)
        if where == "suffix":
            return index >= len(self.sentence_starts) - 1
        return not self.text[self.sentence_starts[index - 1] : start].strip(LEAD_IN)

    def _is_own_voice(self, start: int) -> bool:
        starts, ends = self._protected
        raw_start = self.raw_position(start)
        index = bisect_right(starts, raw_start) - 1
        return index < 0 or raw_start >= ends[index]

    @cached_property
    def _prefix_end(self) -> int:
        """Folded offset at which the third sentence starts."""
        ends = [match.end() for match in islice(SENTENCE_END.finditer(self.text), 2)]
        return ends[1] if len(ends) == 2 else len(self.text)

    @cached_property
    def num_units(self) -> int:
        """Number of words and Han characters."""
        codes = np.frombuffer(self.text.encode("utf-32-le"), dtype="<u4")
        num_han = np.count_nonzero((codes >= 0x3400) & (codes <= 0x9FFF))
        return int(num_han + np.count_nonzero((codes == ord(" ")) | (codes == ord("\n"))) + 1)


def _is_word(char: str) -> bool:
    """Return whether a character (or the empty end of the text) is part of a word that is written with spaces around it."""
    return char.isalnum() and not "\u3040" <= char <= "\u9fff"


Candidate = tuple[int, Text, FoundByRule]


@dataclass(frozen=True)
class Matcher:
    """Rules with their automaton."""

    rules: tuple[Rule, ...]
    requests: tuple[Request, ...]
    table: Table
    automaton: Any
    """`ahocorasick_rs.AhoCorasick` over the folded phrases and anchors, or None where there are no rules."""
    owners: tuple[tuple[int, ...], ...]
    """By pattern of the automaton: the rules that hold it."""

    def scan(self, texts: Sequence[str]) -> Iterator[tuple[int, Text, list[Hit]]]:
        """Yield (index, text, hits) of the texts in which a rule fires, in order; hits are in the order of the rules."""
        for first, last in _chunks(texts):
            for index, text, found in self._candidates(texts, first, last):
                hits = [hit for rule in sorted(found) for hit in _hits_of(self.rules[rule], text, found[rule])]
                if hits:
                    yield index, text, hits

    def _candidates(self, texts: Sequence[str], first: int, last: int) -> Iterator[Candidate]:
        """Yield the texts that hold a phrase or anchor, with the places of these by rule."""
        view = fold(SEPARATOR.join(texts[first:last]), self.table)
        if self.automaton is None:
            return
        matches = self.automaton.find_matches_as_indexes(view.text.replace("\n", " "), overlapping=True)
        if not matches:
            return
        patterns, starts, ends = np.array(matches, dtype=np.int64).T
        columns = (patterns, starts, ends, *_windows(view.text, starts, ends))
        raw_starts = np.cumsum([0, *(len(text) + 1 for text in texts[first:last])])
        bounds = np.searchsorted(view.offsets, raw_starts)
        owners = np.searchsorted(bounds, starts, side="right") - 1
        grouped: dict[int, list[tuple[int, ...]]] = defaultdict(list)
        for owner, *match in zip(*(column.tolist() for column in (owners, *columns)), strict=True):
            grouped[owner].append(tuple(match))
        for owner, group in grouped.items():
            begin, end, raw = int(bounds[owner]), int(bounds[owner + 1]) - 1, texts[first + owner]
            if owner == last - first - 1:
                end = len(view.text)
            found: FoundByRule = defaultdict(list)
            for pattern, match_start, match_end, window_before, window_begin, window_end in group:
                window = (max(0, window_begin - begin), min(end, window_end) - begin)
                place = Found(match_start - begin, match_end - begin, window, max(0, window_before - begin))
                for rule in self.owners[pattern]:
                    found[rule].append(place)
            yield first + owner, Text(raw, view.text[begin:end], view.offsets[begin:end], int(raw_starts[owner])), found


def _windows(text: str, starts: Positions, ends: Positions) -> tuple[Positions, Positions, Positions]:
    """Return begin of the sentence before, begin (the mark before it included) and end of those round spans of a folded text."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    stopped = np.flatnonzero(codes == ord("."))
    stopped = stopped[_AFTER_STOP.take(codes[np.minimum(stopped + 1, len(codes) - 1)], mode="clip")]
    breaks = np.sort(np.concatenate(([0], np.flatnonzero(_MARKS.take(codes, mode="clip")), stopped, [len(codes)])))
    indexes = np.searchsorted(breaks, starts, side="right") - 1
    begins, before = breaks[indexes], breaks[np.maximum(indexes - 1, 0)]
    stops = breaks[np.minimum(np.searchsorted(breaks, ends - 1), len(breaks) - 1)] + 1
    least = starts - WINDOW_CHARS
    return np.maximum(before, least), np.maximum(begins, least), np.minimum(stops, ends + WINDOW_CHARS)


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    first = size = 0
    for index, text in enumerate(texts):
        if size and size + len(text) > CHUNK_CHARS:
            yield first, index
            first, size = index, 0
        size += len(text) + 1
    if first < len(texts):
        yield first, len(texts)


def _regex_spans(rule: Rule, regex: re.Pattern[str], text: str, found: list[Found]) -> Iterator[tuple[int, int]]:
    """Yield the matches of a rule in the sentences round its anchors; a sentence that comes again and held none is not tried."""
    wide = rule.sentences > 1
    places = sorted({(place.before if wide else place.window[0], place.window[1]) for place in found})
    windows = places if len(places) == 1 else _joined(places)
    at_start_only = regex.pattern.startswith("^")
    repetitive = len(windows) > REPETITIVE
    without: set[str] = set()
    for begin, end in windows:
        if begin and at_start_only:
            return
        if repetitive and text[begin:end] in without:
            continue
        spans: list[tuple[int, int]] = []
        if rule.beside is None or rule.beside.search(text, begin, end):
            spans = [match.span() for match in regex.finditer(text, begin, end)]
        if repetitive and not spans:
            without.add(text[begin:end])
        yield from spans


def _joined(windows: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return sorted windows with those that overlap by more than a sentence's end mark joined."""
    joined = windows[:1]
    for begin, end in windows[1:]:
        if begin < joined[-1][1] - 1:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def _hits_of(rule: Rule, text: Text, found: list[Found]) -> list[Hit]:
    """Return the places where a rule fires: all where they are counted or cut out, otherwise the first."""
    if rule.where == "prefix":
        found = [place for place in found if text.in_place("prefix", place.start)]
        if not found:
            return []
    if rule.kind == "lexicon" and len(found) < rule.density * text.num_units / 1000:
        return []
    if rule.regex is not None:
        spans = _regex_spans(rule, rule.regex, text.text, found)
    else:
        spans = iter([(place.start, place.end) for place in found])
    accepted = (Hit(rule, *text.raw_span(*span)) for span in spans if text.accepts(rule, *span))
    if rule.kind != "lexicon":
        return list(accepted) if rule.action == "strip_sentence" else list(islice(accepted, 1))
    hits = list(accepted)
    return hits if len(hits) >= rule.density * text.num_units / 1000 else []


def build_matcher(packs: Iterable[Pack], disable: Iterable[str] = (), actions: Mapping[str, str] = _NO_ACTIONS) -> Matcher:
    """Return the matcher of the packs' rules, without those whose id or category is disabled, with actions by category."""
    from ahocorasick_rs import AhoCorasick, Implementation

    packs, disabled = tuple(packs), frozenset(disable)
    enabled = (rule for pack in packs for rule in pack.rules if not disabled & {rule.id, rule.category})
    rules = tuple(rule._replace(action=actions.get(rule.category, rule.action)) for rule in enabled)
    owners: dict[str, list[int]] = defaultdict(list)
    for index, rule in enumerate(rules):
        for pattern in rule.patterns:
            owners[pattern].append(index)
    return Matcher(
        rules=rules,
        requests=tuple(request for pack in packs for request in pack.requests),
        table=fold_table(variants_of(*(pack.variants for pack in packs))),
        automaton=AhoCorasick(list(owners), implementation=Implementation.DFA, store_patterns=False) if owners else None,
        owners=tuple(map(tuple, owners.values())),
    )
