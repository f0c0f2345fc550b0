"""Tidy the blanks of a text: its ends, the ends of its lines, and runs of empty lines."""

from __future__ import annotations

import re

from sftdata.errors import RecipeError
from sftdata.registry import cleaner

FENCE = re.compile(r"^[ ]{0,3}(`{3,}|~{3,})", re.MULTILINE)
"""A line that opens or closes a block of code (CommonMark 0.31, 4.5)."""

_ODD_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f]")
"""Spaces that look like ordinary ones. The ideographic space U+3000 is not among them: Chinese paragraphs begin with two."""

_LINE_ENDS = re.compile(r"[ \t]+(?=\n)")
_RUNS = re.compile(r"(?<=\S)[ \t]{2,}(?=\S)")


def _no_files(*, max_empty_lines: int = 1, collapse: bool = False) -> tuple[str, ...]:
    """Refuse a negative limit when the recipe is read; the step reads no files."""
    if max_empty_lines < 0:
        raise RecipeError(f"whitespace: max_empty_lines must be 0 or more, not {max_empty_lines}")
    return ()


@cleaner(assets=_no_files)
def whitespace(text: str, *, max_empty_lines: int = 1, collapse: bool = False) -> str:
    """Tidy blanks: none at the ends of the text and of its lines, few empty lines in a row, ordinary spaces for look-alikes.

    Of a run of empty lines `max_empty_lines` stay. Indentation stays; with `collapse` a run of spaces or tabs between two
    words becomes one space. Fenced code is left as it is. A text that needs nothing comes back as the same string.
    """
    pieces = _split(text)
    tidied = "".join(piece if is_code else _tidy(piece, max_empty_lines, collapse) for is_code, piece in pieces)
    tidied = tidied.strip("\n") if pieces and pieces[0][0] else _without_empty_ends(tidied)
    return text if tidied == text else tidied


def _without_empty_ends(text: str) -> str:
    """Strip what is blank at both ends; the indentation of a first line among several stays, it may be code or verse."""
    text = text.rstrip(" \t\n")
    lines = text.lstrip("\n")
    return lines if "\n" in lines else lines.strip(" \t")


def _split(text: str) -> list[tuple[bool, str]]:
    """Cut a text into (is fenced code, piece)."""
    pieces: list[tuple[bool, str]] = []
    place = 0
    opened: re.Match[str] | None = None
    for fence in FENCE.finditer(text):
        if opened is None:
            pieces.append((False, text[place : fence.start()]))
            opened, place = fence, fence.start()
        elif fence[1][0] == opened[1][0] and len(fence[1]) >= len(opened[1]):
            pieces.append((True, text[place : fence.end()]))
            opened, place = None, fence.end()
    pieces.append((opened is not None, text[place:]))
    return [piece for piece in pieces if piece[1]]


def _tidy(text: str, max_empty_lines: int, collapse: bool) -> str:
    text = _LINE_ENDS.sub("", _ODD_SPACES.sub(" ", text))
    if collapse:
        text = _RUNS.sub(" ", text)
    most = "\n" * (max_empty_lines + 1)
    return re.sub(f"{most}\n+", most, text)
