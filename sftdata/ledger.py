"""The ledger: every drop, edit, mark and cut of every row, with what it was and why."""

from __future__ import annotations

from typing import NamedTuple

CONTEXT = 40
"""Characters kept on either side of a change, and of a text in which nothing stands out."""
LONGEST = 400
"""Characters kept of a change itself."""


class Entry(NamedTuple):
    """One line of the ledger, in the order of `schemas.LEDGER`."""

    source: str
    id: str
    turn: int
    stage: str
    step: str
    rule: str
    action: str
    reason: str
    evidence: str = ""
    before: str = ""
    after: str = ""


def change(before: str, after: str) -> tuple[str, str]:
    """Return the changed parts of two texts, each with up to 40 characters of context on either side."""
    start = _num_common(before, after)
    end = _num_common(before[start:][::-1], after[start:][::-1])
    return _window(before, start, len(before) - end), _window(after, start, len(after) - end)


def _num_common(first: str, second: str) -> int:
    """Return the length of the longest common beginning, found by halving: slices compare at the speed of memory."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def around(text: str, evidence: str) -> str:
    """Return the evidence as it stands in a text, with up to 40 characters on either side; else the text's beginning."""
    start = text.find(evidence)
    return _window(text, start, start + len(evidence)) if start >= 0 else _window(text, 0, 0)


def _window(text: str, start: int, end: int) -> str:
    end = min(end, start + LONGEST)
    return text[max(0, start - CONTEXT) : end + CONTEXT]
