"""The ledger: every drop, edit, mark and cut of every row, with what it was and why."""

from __future__ import annotations

import os
from typing import NamedTuple

CONTEXT = 40
"""Characters kept on either side of a change."""
LONGEST = 400
"""Characters kept of a change itself, or of a dropped text."""


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
    start = len(os.path.commonprefix((before, after)))
    end = len(os.path.commonprefix((before[start:][::-1], after[start:][::-1])))
    return _window(before, start, len(before) - end), _window(after, start, len(after) - end)


def around(text: str, evidence: str) -> str:
    """Return the evidence as it stands in a text, with up to 40 characters on either side; else the text's beginning."""
    start = text.find(evidence) if evidence else 0
    start = max(start, 0)
    return _window(text, start, start + len(evidence))


def _window(text: str, start: int, end: int) -> str:
    end = min(end, start + LONGEST)
    return text[max(0, start - CONTEXT) : end + CONTEXT]
