"""The text of a SQL dump: a window that moves over it, its lexical rules by dialect, and how the dialect is told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Literal, NamedTuple

Name = Literal["mysql", "postgresql", "sqlite"]

MAX_CHARS = 64 << 20
"""Characters of one row, or of one statement without rows."""

IDENTIFIER = r'(?:"(?:[^"]|"")*+"|`(?:[^`]|``)*+`|\[[^\]]*+\]|[^\W\d][\w$]*+)'
QUALIFIED = rf"{IDENTIFIER}(?:\s*+\.\s*+{IDENTIFIER})*+"

_DOUBLED = "'[^']*+(?:''[^']*+)*+'"
_ESCAPED = r"'[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+'"
_NUMBER = r"[+-]?+(?:\d++(?:\.\d*+)?+|\.\d++)(?:[eE][+-]?+\d++)?+"
_WORD = r"(?i:NULL|TRUE|FALSE)\b"

LITERALS: dict[Name, str] = {
    "mysql": rf"(?:(?:_\w++\s*+|[nN])?+{_ESCAPED}"
    r'|"[^"\\]*+(?:(?:\\.|"")[^"\\]*+)*+"'
    rf"|[xX]'[0-9A-Fa-f]*+'|[bB]'[01]*+'|0x[0-9A-Fa-f]++|0b[01]++|{_NUMBER}|{_WORD})",
    "postgresql": rf"(?:[eE]{_ESCAPED}|[nN]?+{_DOUBLED}|[xX]'[0-9A-Fa-f]*+'|[bB]'[01]*+'|{_NUMBER}|{_WORD})",
    "sqlite": rf"(?:{_DOUBLED}|[xX]'[0-9A-Fa-f]*+'|0[xX][0-9A-Fa-f]++|{_NUMBER}|{_WORD})",
}
"""One value that is a literal, without groups."""

DOLLAR_QUOTED = r"(?P<tag>\$(?:[^\W\d]\w*+)?\$)(?s:.*?)(?P=tag)"


class Patterns(NamedTuple):
    """The lexical rules of a dialect, compiled."""

    literal: re.Pattern[str]
    row: re.Pattern[str]
    """A whole row of literals in parentheses."""
    statement: re.Pattern[str]
    """Everything up to and with the next semicolon outside strings and comments."""
    string: re.Pattern[str]


@cache
def patterns(dialect: Name) -> Patterns:
    """Return the lexical rules of a dialect."""
    literal = LITERALS[dialect]
    string = _ESCAPED if dialect == "mysql" else rf"[eE]{_ESCAPED}|{_DOUBLED}" if dialect == "postgresql" else _DOUBLED
    comment = r"--[^\n]*+|/\*(?:[^*]++|\*(?!/))*+\*/|-(?!-)|/(?!\*)"
    comment += r"|#[^\n]*+" if dialect == "mysql" else "|#"
    dollar = rf"|{DOLLAR_QUOTED}|\$(?!(?:[^\W\d]\w*+)?\$)" if dialect == "postgresql" else r"|\$"
    words = r"[^;'\"`$/#eE-]++|[eE](?!')" if dialect == "postgresql" else r"[^;'\"`$/#-]++"
    return Patterns(
        literal=re.compile(literal, re.DOTALL),
        row=re.compile(rf"\(\s*+{literal}\s*+(?:,\s*+{literal}\s*+)*+\)", re.DOTALL),
        statement=re.compile(rf'(?:{words}|{string}|"[^"]*+"|`[^`]*+`|{comment}{dollar})*+;', re.DOTALL),
        string=re.compile(string, re.DOTALL),
    )


@cache
def row_pattern(dialect: Name, num_columns: int) -> re.Pattern[str]:
    """Return the pattern of a row of so many literals: each is a group, the last group is the comma before another row.

    For 0 columns it is any row of literals, without their groups.
    """
    literal = LITERALS[dialect]
    row = ",".join([f"({literal})"] * num_columns) if num_columns else rf"{literal}(?:,{literal})*+"
    return re.compile(rf"\({row}\)(?:(,)\s*+(?=\())?+", re.DOTALL)


_HINTS: tuple[tuple[Name, str], ...] = (
    ("mysql", r"^-- (?:MySQL|MariaDB) dump|^/\*!\d{5}|^/\*M!|phpMyAdmin SQL Dump|\)\s*ENGINE\s*="),
    ("postgresql", r"PostgreSQL database dump|^SET standard_conforming_strings|pg_catalog\.|^COPY [^;]* FROM stdin"),
    ("sqlite", r"^PRAGMA foreign_keys|^BEGIN TRANSACTION;|sqlite_sequence|\bAUTOINCREMENT\b|\bunistr\('|\breplace\('"),
    ("mysql", r"^\s*(?:INSERT|REPLACE|CREATE|DROP|LOCK)\b[^(;]*`"),
    ("postgresql", r"\bE'|'::\w|\$\$|^INSERT INTO public\."),
    # A backslash before a quote that ends no value escapes it.
    ("mysql", r"\\'(?=[^\s,);|:])"),
)


def tell_dialect(head: str) -> Name:
    """Return the dialect that the beginning of a dump shows; sqlite, whose strings are the standard's, where none does."""
    for name, hint in _HINTS:
        if re.search(hint, head, re.MULTILINE):
            return name
    return "sqlite"


class Window:
    """The part of the dump that is being looked at: all before `position` is read and may be dropped."""

    def __init__(self, pieces: Iterator[str], first_line: int = 0, open_end: bool = False) -> None:
        """`first_line`: lines before the text; `open_end`: it ends between two rows of a dump that goes on."""
        self._pieces, self._open_end = pieces, open_end
        self.text, self.position = "", 0
        self._line, self._counted = first_line + 1, 0
        self.in_comment = False
        """True once the dump has ended inside a comment."""

    def more(self, keep: int | None = None) -> bool:
        """Drop what lies before `keep` (the position), and read at least as much again as is held; False at the end."""
        keep = self.position if keep is None else keep
        self._line += self.text.count("\n", self._counted, keep)
        pieces = [self.text[keep:]]
        self.position -= keep
        self._counted = 0
        held, size = len(pieces[0]), 0
        for piece in self._pieces:
            pieces.append(piece)
            size += len(piece)
            if size >= max(held, 1):
                break
        self.text = "".join(pieces)
        return size > 0

    def is_over(self) -> bool:
        """Say whether the text ends here between two rows, the rest of which stands in another piece of the dump."""
        return self._open_end and self.position >= len(self.text) and not self.more()

    def line(self) -> int:
        """Return the number of the line at the position, from 1."""
        self._line += self.text.count("\n", self._counted, self.position)
        self._counted = self.position
        return self._line

    def ensure(self, num_chars: int) -> None:
        """Hold at least `num_chars` from the position, unless the dump ends before."""
        while len(self.text) - self.position < num_chars and self.more():
            pass

    def skip_past(self, needle: str) -> bool:
        """Go behind the next `needle`; to the end, and False, where there is none."""
        while (found := self.text.find(needle, self.position)) < 0:
            self.position = max(self.position, len(self.text) - len(needle) + 1)
            if not self.more():
                self.position = len(self.text)
                return False
        self.position = found + len(needle)
        return True

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Match a pattern that fails only where the text held is cut off; None at the dump's end or past the limit."""
        while (match := pattern.match(self.text, self.position)) is None:
            if len(self.text) - self.position > MAX_CHARS or not self.more():
                return None
        return match

    def skip_gap(self, hash_comments: bool) -> None:
        """Go behind space, comments, the borders of conditional comments, and lines of psql's own commands."""
        while True:
            self.ensure(64)
            gap = _GAP.match(self.text, self.position)
            if gap is None or (gap.lastgroup == "hash" and not hash_comments):
                return
            self.position = gap.end()
            if gap.lastgroup == "comment":
                self.in_comment = not self.skip_past("*/")
            elif gap.lastgroup is not None:
                self.skip_past("\n")


# A conditional comment of version 999999 is for no server: MariaDB begins its dumps with one.
_GAP = re.compile(r"\s++|/\*(?!M?!9{6})M?!\d*+|\*/|(?P<comment>/\*)|(?P<dash>--)|(?P<hash>#)|(?P<psql>\\(?=[a-z]))")
