"""Texts of records as a person can safely look at them: what would be invisible, or would steer a terminal, is spelled out."""

from __future__ import annotations

import re
from typing import NamedTuple

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control characters but tab and newline, marks without width, marks of direction, tags, and halves of surrogate pairs.

The joiners U+200C and U+200D stay: words of some scripts and many emoji are made with them.
"""


def visible(text: str) -> str:
    """Return a text with its invisible characters written as ⟨U+200B⟩."""
    return _INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text)


def one_line(text: str) -> str:
    """Return a text as one line: also its newlines and tabs are shown as signs."""
    return visible(text).replace("\n", "⏎").replace("\t", "⇥")


class Marked(NamedTuple):
    """A text in three pieces, of which the middle one matters."""

    before: str
    middle: str
    after: str


def mark(text: str, wanted: str) -> Marked:
    """Return a text with the first place where `wanted` stands as its middle; an empty middle where it does not."""
    start = text.find(wanted) if wanted else -1
    if start < 0:
        return Marked(text, "", "")
    return Marked(text[:start], wanted, text[start + len(wanted) :])


def mark_change(before: str, after: str) -> tuple[Marked, Marked]:
    """Return two texts with what differs between them as their middles."""
    limit = min(len(before), len(after))
    start = next((index for index in range(limit) if before[index] != after[index]), limit)
    limit -= start
    end = next((index for index in range(limit) if before[-1 - index] != after[-1 - index]), limit)
    return _cut(before, start, end), _cut(after, start, end)


def _cut(text: str, start: int, end: int) -> Marked:
    return Marked(text[:start], text[start : len(text) - end], text[len(text) - end :])
