"""The sieve of the slop matcher: what it discards could not have come to a hit."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.cleaners._matching import Matcher, build_matcher
from sftdata.cleaners._packs import load_packs, pack_files
from sftdata.cleaners._places import NO_SET
from sftdata.cleaners._text import SENTENCE_END, sentence_round

SENTENCES = ["a", "Bc 1", "。", "!", "?", ".", "..", "…", '"', "'", ")", "]", "」", "*", "_", " ", "\n", "x" * 500, "·"]

Hits = list[tuple[int, str, int, int]]


@cache
def matchers() -> tuple[Matcher, Matcher]:
    """Return the matcher of the built-in rules, and one whose sieve discards nothing."""
    matcher = build_matcher(load_packs(pack_files(["en", "zh"])))
    none = np.zeros(len(matcher.rules), dtype=np.bool_)
    sieve = replace(matcher.sieve, set_of=np.full(len(none), NO_SET), first_only=none, prefix=none, density=none * 0.0)
    return matcher, replace(matcher, sieve=sieve)


def hits_of(matcher: Matcher, texts: list[str]) -> Hits:
    return [(index, hit.rule.id, hit.start, hit.end) for index, _, hits in matcher.scan(texts) for hit in hits]


def pieces() -> list[str]:
    """Return sentences on which rules fire, their anchors, the phrases beside these, and ends of sentences."""
    rules = matchers()[0].rules
    said = [text for rule in rules for text in (*rule.must_fire, *rule.must_not_fire)]
    phrases = [phrase for rule in rules for phrase in (*rule.patterns, *rule.beside_phrases)]
    return said + phrases + [". ", "!", "?! ", ".\n", "...", ".' ", '."', ".] ", "\n\n", "。", "…」", ", ", " "] * 40


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_sieve_discards_nothing_that_hits(data: st.DataObject) -> None:
    piece = st.sampled_from(pieces())
    texts = data.draw(st.lists(st.lists(piece, max_size=25).map("".join), max_size=4))
    sieved, plain = matchers()
    assert hits_of(sieved, texts) == hits_of(plain, texts)


def test_sieve_keeps_all_examples_and_discards_most_anchors() -> None:
    sieved, plain = matchers()
    texts = [text for rule in sieved.rules for text in (*rule.must_fire, *rule.must_not_fire)]
    expected = hits_of(plain, texts)
    assert len(expected) > 400 and hits_of(sieved, texts) == expected
    prose = "It is a fine morning in the harbour, and the session of the club began at ten. " * 50
    bounds = np.array([0, len(prose) + 1])
    kept, found = ([rule for *_, rules in each._candidates([prose], 0, bounds) for rule in rules] for each in matchers())
    assert len(kept) < len(found) / 2


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=30).map("".join), st.data())
def test_sentence_round_a_place_is_that_of_the_whole_text(text: str, data: st.DataObject) -> None:
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    position = data.draw(st.integers(0, len(text) - 1))
    start = max((end for end in ends if end <= position), default=0)
    assert sentence_round(text, position) == (start, min((end for end in ends if end > position), default=len(text)))
