"""The rows of one INSERT or COPY statement, read where the window stands; what cannot be read is named, never guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sftdata.ingestors._sql_expressions import CutOff, RowText, Unreadable
from sftdata.ingestors._sql_text import MAX_CHARS, Name, Window, patterns, row_pattern
from sftdata.ingestors._sql_values import copy_value, literals
from sftdata.schemas import QUARANTINE_BYTES

PASSED_STATEMENTS = frozenset(
    str.split(
        "ALTER ANALYZE ATTACH BEGIN CALL COMMENT COMMIT DELETE DETACH DO DROP END EXECUTE FLUSH GRANT IMPORT LOAD LOCK "
        "OPTIMIZE PRAGMA REFRESH REINDEX RELEASE RESET REVOKE ROLLBACK SAVEPOINT SECURITY SELECT SET SHOW START TRUNCATE "
        "UNLOCK UPDATE USE VACUUM WITH"
    )
)
"""Statements that hold no rows."""

_RESUME = re.compile(
    r";[ \t]*\r?\n(?=\s*(?:--|/\*|#|\\|\Z|(?i:INSERT|REPLACE|CREATE|COPY|" + "|".join(sorted(PASSED_STATEMENTS)) + r")\b))"
)
_NEVER = re.compile(r"(?!)")
_MOST_GROUPS = 64
"""Columns up to which a row is matched in one go; the pattern takes a millisecond a column to compile."""
_SEPARATOR = re.compile(r"\s*+([,;])\s*+(?=\S)")
_AFTER_ROWS = re.compile(r"(?:ON|AS|RETURNING)\b", re.IGNORECASE)


class RawRow(NamedTuple):
    """The values of a row (none where the row is only passed) and its text; the window still stands before it."""

    values: list[Any]
    text: str


class BrokenRows(NamedTuple):
    """What cannot be read: the reason's code, what is wrong, the beginning of the text, and the line that it begins on."""

    reason: str
    message: str
    text: str
    line: int


class Columns(NamedTuple):
    """The columns of the rows of an INSERT: how many (0: the rows are only passed), and the places of binary ones."""

    num: int
    binary: tuple[int, ...] = ()


def insert_rows(window: Window, dialect: Name, encoding: str, columns: Columns) -> Iterator[RawRow | BrokenRows]:
    """Yield the rows behind VALUES up to the end of the statement."""
    usual = row_pattern(dialect, columns.num) if columns.num <= _MOST_GROUPS else _NEVER
    window.skip_gap(hash_comments=False)
    while True:
        while (match := usual.match(window.text, window.position)) is not None and match[columns.num + 1]:
            values = _values(match.groups()[:-1], dialect, encoding, columns)
            yield RawRow(values, window.text[window.position : match.start(columns.num + 1)])
            window.position = match.end()
        if window.is_over():
            return
        try:
            values, end = _read_row(window, dialect, encoding, columns)
        except Unreadable as error:
            yield broken_statement(window, str(error))
            return
        except CutOff:
            yield cut_off(window)
            return
        yield RawRow(values, window.text[window.position : end])
        window.position = end
        separator = _SEPARATOR.match(window.text, end)
        if separator is None or separator[1] == ";":
            ending = _end_of_row(window, dialect)
            if ending is not None:
                yield from ending
                return
        else:
            window.position = separator.end()


def _values(tokens: Sequence[str], dialect: Name, encoding: str, columns: Columns) -> list[Any]:
    """Return the values of a row of literals; a plain string in a binary column is bytes, as digits."""
    values = literals(tokens, dialect, encoding)
    for place in columns.binary:
        if place < len(values) and tokens[place].startswith("'"):
            values[place] = _binary_digits(values[place], dialect, encoding)
    return values


def _binary_digits(text: str, dialect: Name, encoding: str) -> str:
    r"""Return the bytes that a plain string in a binary column stands for, as digits: `\x00ff` in PostgreSQL, else itself."""
    if dialect == "postgresql" and text.startswith("\\x"):
        return text[2:].lower()
    return text.encode(encoding, "surrogateescape").hex()


def _read_row(window: Window, dialect: Name, encoding: str, columns: Columns) -> tuple[list[Any], int]:
    """Return the values of one row and the position behind it. Raises Unreadable, or CutOff."""
    rules = patterns(dialect)
    match = rules.row.match(window.text, window.position)
    if match is None:
        slowly = _read_slowly(window, dialect, encoding)
        match = rules.row.match(window.text, window.position)  # of literals after all, once all of it is held
        if match is None:
            return slowly
    tokens = rules.literal.findall(match[0]) if columns.num else []
    return _values(tokens, dialect, encoding, columns), match.end()


def _read_slowly(window: Window, dialect: Name, encoding: str) -> tuple[list[Any], int]:
    """Return the values of a row that is not all literals or not yet all held, and the position behind it."""
    while True:
        row = RowText(window.text, window.position, dialect, encoding)
        try:
            return row.values(), row.position
        except CutOff:
            if len(window.text) - window.position > MAX_CHARS or not window.more():
                raise


def _end_of_row(window: Window, dialect: Name) -> tuple[BrokenRows, ...] | None:
    """Go to the next row and return None; or behind the statement, and return what was wrong with its end, if anything."""
    window.skip_gap(hash_comments=False)
    mark = window.text[window.position : window.position + 1]
    if mark == ",":
        window.position += 1
        window.skip_gap(hash_comments=False)
        return None
    if mark == ";":
        window.position += 1
        return ()
    if not mark:
        return (cut_off(window),)
    window.ensure(64)
    if _AFTER_ROWS.match(window.text, window.position):
        end = window.match(patterns(dialect).statement)
        if end is None:
            return (cut_off(window),)
        window.position = end.end()
        return ()
    return (broken_statement(window, "expected a comma or the end of the statement"),)


def copy_rows(window: Window, carriage_return: bool, wanted: bool) -> Iterator[RawRow | BrokenRows]:
    r"""Yield the lines of COPY … FROM stdin up to `\.`; the values are text or None."""
    while True:
        end = window.text.find("\n", window.position)
        if end < 0:
            if len(window.text) - window.position > MAX_CHARS or not window.more():
                if not window.is_over():
                    yield cut_off(window)
                return
            continue
        line = window.text[window.position : end - 1 if carriage_return else end]
        if line == "\\.":
            window.position = end + 1
            return
        yield RawRow([copy_value(cell) for cell in line.split("\t")] if wanted else [], line)
        window.position = end + 1


def broken_statement(window: Window, message: str) -> BrokenRows:
    """Return the statement that the window stands in as broken, and go on behind the next `;` at a line's end."""
    line, beginning = window.line(), ""
    while (match := _RESUME.search(window.text, window.position)) is None:
        beginning = beginning or _beginning(window)
        window.position = max(window.position, len(window.text) - 256)
        if not window.more():
            break
    end = match.end() if match else len(window.text)
    beginning = beginning or window.text[window.position : min(end, window.position + QUARANTINE_BYTES)]
    window.position = end
    return BrokenRows("sql_syntax", message, beginning, line)


def cut_off(window: Window) -> BrokenRows:
    """Return what the window stands before as cut off by the dump's end, or as too long to be held; go on behind it."""
    if len(window.text) - window.position > MAX_CHARS:
        return broken_statement(window, f"more than {MAX_CHARS:,} characters")._replace(reason="too_large")
    broken = BrokenRows("sql_truncated", "the dump ends inside a statement", _beginning(window), window.line())
    window.position = len(window.text)
    return broken


def _beginning(window: Window) -> str:
    return window.text[window.position : window.position + QUARANTINE_BYTES]
