"""Find the hits of slop rules in a batch of texts: one Aho-Corasick pass over all of them, care only for those it finds.

A text that holds no phrase and no anchor of any rule costs its share of a table look-up and of an automaton pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from sftdata.cleaners._fold import Table, fold, fold_table, variants_of
from sftdata.cleaners._places import SEPARATOR, Places, Sieve, sieve_of
from sftdata.cleaners._rules import Pack, Request, Rule
from sftdata.cleaners._text import Positions, Text

CHUNK_CHARS = 1 << 19
"""Texts are joined up to about this many characters a pass: arrays stay in the cache, memory stays flat."""

REPETITIVE = 64
"""Sentences with an anchor of a rule in one text, from which on those without a match are remembered."""

_NO_ACTIONS: Mapping[str, str] = {}


class Hit(NamedTuple):
    """A rule that fired, and where in the raw text."""

    rule: Rule
    start: int
    end: int


Found = tuple[int, int, int, int, int]
"""A phrase or anchor in a folded text: start, end, begin of the sentence round it (with the mark before it), its end, and
begin of the sentence before that one. Plain tuples, since a hostile text has one for every word."""

FoundByRule = dict[int, list[Found]]

Candidate = tuple[int, Text, FoundByRule]


@dataclass(frozen=True)
class Matcher:
    """Rules with their automaton."""

    rules: tuple[Rule, ...]
    requests: tuple[Request, ...]
    table: Table
    automaton: Any
    """`ahocorasick_rs.AhoCorasick` over the patterns of the sieve, or None where there are no rules."""
    sieve: Sieve

    def scan(self, texts: Sequence[str]) -> Iterator[tuple[int, Text, list[Hit]]]:
        """Yield (index, text, hits) of the texts in which a rule fires, in order; hits are in the order of the rules."""
        raw_starts = np.cumsum([0, *map(len, texts)]) + np.arange(len(texts) + 1)
        for first, last in _chunks(raw_starts):
            for index, text, found in self._candidates(texts, first, raw_starts[first : last + 1]):
                hits = [hit for rule, places in found.items() for hit in _hits_of(self.rules[rule], text, places)]
                if hits:
                    yield index, text, hits

    def _candidates(self, texts: Sequence[str], first: int, raw_starts: Positions) -> Iterator[Candidate]:
        """Yield the texts, of those from `first`, in which a rule may fire, with the places of its phrases or anchors by rule.

        `raw_starts` are where the texts start, and where one more would, when all are joined.
        """
        view = fold(SEPARATOR.join(texts[first : first + len(raw_starts) - 1]), self.table)
        if self.automaton is None:
            return
        matches = self.automaton.find_matches_as_indexes(view.text.replace("\n", " "), overlapping=True)
        if not matches:
            return
        raw_starts = raw_starts - raw_starts[0]
        bounds = view.folded_offsets(raw_starts)
        places = self.sieve.places(view.codes, bounds, matches)
        origins = bounds[places.texts]
        columns = (column - origins for column in (places.starts, places.ends, places.begins, places.stops, places.befores))
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        for owner, group in groupby(_groups(places), itemgetter(0)):
            found = {rule: rows[begin:end] for _, rule, begin, end in group}
            begin, end = int(bounds[owner]), int(bounds[owner + 1]) - 1
            yield first + owner, Text(texts[first + owner], view, begin, end, int(raw_starts[owner])), found


def _groups(places: Places) -> Iterator[tuple[int, int, int, int]]:
    """Yield for the places of each text and rule: text, rule, first row, row behind the last."""
    new = (places.texts[1:] != places.texts[:-1]) | (places.rules[1:] != places.rules[:-1])
    firsts = np.flatnonzero(np.append(len(places.texts) > 0, new))
    ends = np.append(firsts, len(places.texts))[1:]
    yield from zip(places.texts[firsts].tolist(), places.rules[firsts].tolist(), firsts.tolist(), ends.tolist(), strict=True)


def _chunks(raw_starts: Positions) -> Iterator[tuple[int, int]]:
    first, num_texts = 0, len(raw_starts) - 1
    while first < num_texts:
        last = int(np.searchsorted(raw_starts, raw_starts[first] + CHUNK_CHARS, side="right")) - 1
        last = min(max(last, first + 1), num_texts)
        yield first, last
        first = last


def _regex_spans(rule: Rule, regex: re.Pattern[str], text: str, found: list[Found]) -> Iterator[tuple[int, int]]:
    """Yield the matches of a rule in the sentences round its anchors; one that comes again and held none is not tried."""
    without: set[str] = set()
    at_start_only = rule.at_start_only
    for number, (begin, end) in enumerate(_joined_windows(found, rule.sentences > 1)):
        if begin and at_start_only:
            return
        repetitive = number > REPETITIVE
        if repetitive and text[begin:end] in without:
            continue
        num_matches = 0
        if rule.beside is None or rule.beside.search(text, begin, end):
            for match in regex.finditer(text, begin, end):
                num_matches += 1
                yield match.span()
        if repetitive and not num_matches:
            without.add(text[begin:end])


def _joined_windows(found: list[Found], wide: bool) -> Iterator[tuple[int, int]]:
    """Yield the sentences round places, those that overlap by more than an end mark joined; `wide`: with the one before."""
    places = ((before if wide else begin, stop) for _, _, begin, stop, before in found)
    begin, end = next(places)
    for start, stop in places:
        if start < end - 1 or start == begin:
            begin, end = min(begin, start), max(end, stop)
        else:
            yield begin, end
            begin, end = start, stop
    yield begin, end


def _hits_of(rule: Rule, text: Text, found: list[Found]) -> list[Hit]:
    """Return the places where a rule fires: all where they are counted or cut out, otherwise the first."""
    if rule.where == "prefix":
        found = [place for place in found if place[0] < text.prefix_end]
        if not found:
            return []
    if rule.kind == "lexicon" and len(found) < rule.density * text.num_units / 1000:
        return []
    if rule.regex is not None:
        spans = _regex_spans(rule, rule.regex, text.text, found)
    else:
        spans = ((start, end) for start, end, *_ in found)
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
    sieve = sieve_of(rules)
    return Matcher(
        rules=rules,
        requests=tuple(request for pack in packs for request in pack.requests),
        table=fold_table(variants_of(*(pack.variants for pack in packs))),
        automaton=AhoCorasick(sieve.patterns, implementation=Implementation.DFA, store_patterns=False) if rules else None,
        sieve=sieve,
    )
