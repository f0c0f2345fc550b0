"""One text in which a slop rule may fire: its folded view, its sentences, and whose voice a place of it speaks in."""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from sftdata.cleaners._fold import Folded
from sftdata.cleaners._rules import Rule
from sftdata.cleaners._voice import PROTECTED, is_reported

SENTENCE_END = re.compile(r"""(?:[!?。…]+|\.+(?=["')\]*_]*(?:\s|$)))["')\]」』】*_]*[ ]?|\n""")
"""What ends a sentence of a folded text; a newline always does."""

ENDING = frozenset("!?。….\"')]*_」』】 \n")
"""All characters that a match of `SENTENCE_END` may hold."""

WINDOW_CHARS = 400
"""A regex is tried on the sentence round an anchor, at most this far to either side: a document costs what its anchors cost."""

LEAD_IN = " \t\n\"'(*_#>-:[「『“【"
"""What may stand between the start of a sentence and its first word."""

Positions = NDArray[np.int64]


class Text:
    """One text with a hit: its folded view, and what of its structure the hits ask for."""

    def __init__(self, raw: str, view: Folded, begin: int, end: int, raw_begin: int) -> None:
        self.raw = raw
        self.text = view.text[begin:end]
        """The folded view: this part of the folded chunk."""
        self._view = view
        self._begin = begin
        self._raw_begin = raw_begin
        self._starts: list[int] = []
        self._ends: list[int] = []

    @cached_property
    def _protected(self) -> tuple[list[int], list[int]]:
        spans = [match.span() for match in PROTECTED.finditer(self.raw)]
        return [start for start, _ in spans], [end for _, end in spans]

    def sentence(self, position: int) -> tuple[int, int]:
        """Return where the sentence that holds a folded offset starts and ends; only those asked for are looked for."""
        index = bisect_right(self._starts, position)
        if not index or position >= self._ends[index - 1]:
            start, end = sentence_round(self.text, position)
            self._starts.insert(index, start)
            self._ends.insert(index, end)
            return start, end
        return self._starts[index - 1], self._ends[index - 1]

    def raw_position(self, position: int) -> int:
        """Return the raw offset of a folded one; the length of the folded text stands for the length of the raw one."""
        if position >= len(self.text):
            return len(self.raw)
        return self._view.raw_offset(self._begin + position) - self._raw_begin

    def raw_span(self, start: int, end: int) -> tuple[int, int]:
        """Return the raw span of a folded one that is not empty."""
        return self.raw_position(start), self.raw_position(end - 1) + 1

    def sentence_span(self, position: int) -> tuple[int, int]:
        """Return the raw span of the sentence that holds a folded offset, with the blanks that follow it."""
        start, end = self.sentence(position)
        return self.raw_position(start), self.raw_position(end)

    def folded_position(self, raw_position: int) -> int:
        """Return the folded offset of a raw one."""
        return int(self._view.folded_offsets(self._raw_begin + raw_position)) - self._begin

    def accepts(self, rule: Rule, start: int, end: int) -> bool:
        """Return whether a folded match meets the rule's boundary and place, outside code, quotations and reported speech."""
        if not self._meets_boundary(rule.boundary, start, end):
            return False
        if not self.in_place(rule.where, start) or not self._is_own_voice(start):
            return False
        said_until = min(self.sentence(start)[1], end + WINDOW_CHARS)
        return rule.kind == "lexicon" or not is_reported(self.text, start, end, said_until)

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
            return start < self.prefix_end
        if where == "suffix":
            return start >= self.suffix_start
        return not self.text[self.sentence(start)[0] : start].strip(LEAD_IN)

    def _is_own_voice(self, start: int) -> bool:
        starts, ends = self._protected
        raw_start = self.raw_position(start)
        index = bisect_right(starts, raw_start) - 1
        return index < 0 or raw_start >= ends[index]

    @cached_property
    def prefix_end(self) -> int:
        """Folded offset at which the third sentence starts."""
        ends = [match.end() for match in islice(SENTENCE_END.finditer(self.text), 2)]
        return ends[1] if len(ends) == 2 else len(self.text)

    @cached_property
    def suffix_start(self) -> int:
        """Folded offset at which the last sentence but one starts."""
        last = self.sentence(len(self.text) - 1)[0]
        return self.sentence(last - 1)[0] if last else 0

    @cached_property
    def num_units(self) -> int:
        """Number of words and Han characters."""
        return int(np.count_nonzero(is_unit(np.frombuffer(self.text.encode("utf-32-le"), dtype="<u4")))) + 1


def sentence_round(text: str, position: int) -> tuple[int, int]:
    """Return where the sentence of a folded text that holds an offset starts and ends, without splitting all of it.

    `SENTENCE_END` is searched from behind a character that none of its matches holds: there it finds what it finds from
    the start of the text.
    """
    begin = _behind_text(text, position)
    start, end = -1, len(text)
    for match in SENTENCE_END.finditer(text, begin):
        if match.end() > position:
            end = match.end()
            break
        start = match.end()
    reach = WINDOW_CHARS
    while start < 0 and begin:
        begin, limit, reach = _behind_text(text, max(0, begin - reach)), begin, 2 * reach
        for match in SENTENCE_END.finditer(text, begin, limit):
            start = match.end()
    return max(start, 0), end


def _behind_text(text: str, position: int) -> int:
    """Return the last offset up to this one that is 0 or behind a character that ends no sentence."""
    while position and text[position - 1] in ENDING:
        position -= 1
    return position


def is_unit(codes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Return which code points are a Han character, or the blank behind a word."""
    units: NDArray[np.bool_] = ((codes >= 0x3400) & (codes <= 0x9FFF)) | (codes == ord(" ")) | (codes == ord("\n"))
    return units


def _is_word(char: str) -> bool:
    """Return whether a character (or the empty end of the text) is part of a word that is written with spaces around it."""
    return char.isalnum() and not "\u3040" <= char <= "\u9fff"
