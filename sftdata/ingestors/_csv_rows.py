"""The border scan of CSV: cuts text into rows, proves their number of fields, finds those that nobody should guess at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import chain, repeat
from typing import NamedTuple

import numpy as np

from sftdata.ingestors._csv_cells import MAX_FIELD_CHARS, MAX_FIELD_LINES, Grid, find_cells
from sftdata.ingestors._encoding import undecodable

MAX_ROW_CHARS = 64 << 20
"""Characters of one row."""

_TOO_LARGE = f"a row of more than {MAX_ROW_CHARS:,} characters"
_MOST_ALONE = 4096


class Row(NamedTuple):
    """One row of a file: its text with the line end, its number of fields, and the number of its first line, from 1."""

    text: str
    num_fields: int
    line: int


class Run(NamedTuple):
    """Consecutive rows that all have the number of fields asked for, and no undecodable bytes: their cells, row after row."""

    num_rows: int
    cells: list[str]


class BrokenRow(NamedTuple):
    """A row that cannot be read: the reason's code, what is wrong, its text, and the number of its first line, from 1."""

    reason: str
    message: str
    text: str
    line: int


class _Grammar(NamedTuple):
    row: re.Pattern[str]
    """A whole row with its line end; group 1 holds a row without any quote."""
    field: re.Pattern[str]
    quoted: re.Pattern[str]
    """The quoted fields: a quote in the middle of a field is an ordinary character."""


_LINE_END = r"(?:\r\n|\r|\n)"
_QUOTED = '"[^"]*+(?:""[^"]*+)*+"'


def _field(delimiter: str) -> str:
    return rf'(?:[^"{delimiter}\r\n][^{delimiter}\r\n]*+|{_QUOTED}|)'


@cache
def _grammar(delimiter: str) -> _Grammar:
    d = re.escape(delimiter)
    return _Grammar(
        row=re.compile(rf'(?:([^"\r\n]*+)|{_field(d)}(?:{d}{_field(d)})*+){_LINE_END}'),
        field=re.compile(_field(d)),
        quoted=re.compile(rf"(?<![^{d}\r\n]){_QUOTED}"),
    )


_PHYSICAL_LINE = re.compile(r"[^\r\n]*+(?:\r\n|\r|\n|\Z)")


def split_fields(row: str, delimiter: str) -> list[str]:
    """Return the cells of one row as `RowScan` yields it: quotes taken off, doubled quotes made single."""
    body = row.rstrip("\r\n") if '"' not in row else row[: _content_end(row, delimiter)]
    if '"' not in body:
        return body.split(delimiter)
    field = _grammar(delimiter).field
    cells: list[str] = []
    position = 0
    while position <= len(body):
        match = field.match(body, position)
        text = match[0] if match else ""
        cells.append(text[1:-1].replace('""', '"') if text.startswith('"') else text)
        position += len(text) + 1
    return cells


def _content_end(row: str, delimiter: str) -> int:
    """Return where a row's line end begins: a line break inside its last, quoted field belongs to the field."""
    return len(row) - (2 if row.endswith("\r\n") else 1 if row.endswith(("\r", "\n")) else 0)


class RowScan:
    """The rows of a text given in pieces. Lines end in CRLF, LF or CR; empty lines are left out.

    After a quote that is never closed, or is followed by text, reading resumes at the line after the one that opened it.
    """

    def __init__(self, pieces: Iterator[str], delimiter: str, *, num_lines: int = 0, with_cells: bool = True) -> None:
        """`num_lines`: the lines before the text. `with_cells` False: only the structure is read, runs have no cells."""
        self._pieces, self._delimiter, self._grammar = pieces, delimiter, _grammar(delimiter)
        self._text, self._position, self._ended = "", 0, False
        self._num_dropped = 0
        self._with_cells = with_cells
        self.num_lines = num_lines
        self.is_long = False
        """True once a quoted field or a row came up to a limit on characters."""

    def rows(self) -> Iterator[Row | BrokenRow]:
        """Yield the rows one by one."""
        while self._position < len(self._text) or self._more():
            if (row := self._row()) is not None:
                yield row

    def runs(self, num_fields: int) -> Iterator[Run | Row | BrokenRow]:
        """Yield runs of rows of `num_fields` fields, and between them the other rows one by one."""
        return chain.from_iterable(self.steps(num_fields))

    def steps(self, num_fields: int) -> Iterator[list[Run | Row | BrokenRow]]:
        """Yield what `runs` does, in lists after each of which `num_read` and `num_lines` stand behind what was yielded."""
        num_alone = 1
        while self._position < len(self._text) or self._more():
            self._drop(self._position)
            before = self.num_lines
            items: list[Run | Row | BrokenRow] = []
            if (run := self._plain_run(num_fields)) is not None:
                items.append(run)
            elif (grid := find_cells(self._text, self._delimiter)) is not None:
                items.extend(self._take(grid, num_fields))
            # What is left is read row by row; the more of it there is, the longer nothing is tried at once.
            num_alone = 1 if self.num_lines >= before + num_alone else min(2 * num_alone, _MOST_ALONE)
            for _ in range(num_alone):
                if self._position < len(self._text) and (row := self._row()) is not None:
                    items.append(row)
            yield items

    @property
    def num_read(self) -> int:
        """Characters of the text that are read."""
        return self._num_dropped + self._position

    def _drop(self, num_chars: int) -> None:
        self._num_dropped += num_chars
        self._text, self._position = self._text[num_chars:], 0

    def _plain_run(self, num_fields: int) -> Run | None:
        """Return all whole rows held, and go behind them, where there are no quotes, no blank lines and no other widths."""
        end = self._text.rfind("\n") + 1
        if not end or '"' in self._text:
            return None
        text = self._text[: end - 1].replace("\r\n", "\n").removesuffix("\r")
        lines = text.split("\n")
        if "\r" in text or "" in lines or {*map(str.count, lines, repeat(self._delimiter))} != {num_fields - 1}:
            return None
        if self._with_cells and undecodable(text):
            return None
        self._drop(end)
        self.num_lines += len(lines)
        return Run(len(lines), text.replace("\n", self._delimiter).split(self._delimiter) if self._with_cells else [])

    def _take(self, grid: Grid, num_fields: int) -> Iterator[Run | Row]:
        """Yield the rows of a grid of the text held, and go behind them."""
        text, cells = self._text, _cells(self._text, grid) if self._with_cells else []
        line, position, done = self.num_lines + 1, 0, 0
        for row in (np.diff(grid.row_ends, prepend=0) != num_fields).nonzero()[0].tolist():
            end = int(grid.row_ends[row])
            first = int(grid.row_ends[row - 1]) if row else 0
            if first > done:
                yield Run((first - done) // num_fields, cells[done:first])
            line += _count_lines(text[position : grid.lines[row]])
            position = int(grid.lines[row])
            physical = _PHYSICAL_LINE.match(text, int(grid.line_ends[row]))
            yield Row(text[position : physical.end() if physical else None], end - first, line)
            done = end
        if done < len(grid.starts):
            yield Run((len(grid.starts) - done) // num_fields, cells[done:] if done else cells)
        self._position = grid.length
        self.num_lines += grid.num_lines

    def _row(self) -> Row | BrokenRow | None:
        """Return the row at the position; None for an empty line, or where more had to be read first."""
        match = self._grammar.row.match(self._text, self._position)
        if match is None:
            return self._stuck()
        text = match[0]
        self._position = match.end()
        if len(text) > MAX_ROW_CHARS:
            self.is_long = True
            self.num_lines += _count_lines(text)
            return BrokenRow("too_large", _TOO_LARGE, text, self.num_lines - _count_lines(text) + 1)
        if match[1] is None:
            return self._quoted_row(text, self._grammar.quoted.sub("", text).count(self._delimiter) + 1)
        self.num_lines += 1
        return Row(text, text.count(self._delimiter) + 1, self.num_lines) if match[1] else None

    def _quoted_row(self, text: str, num_fields: int) -> Row | BrokenRow:
        num_lines = _count_lines(text)
        if num_lines > MAX_FIELD_LINES or len(text) > MAX_FIELD_CHARS:
            broken = self._diagnose(self._position - len(text))
            if broken is not None:
                return broken
        self.num_lines += num_lines
        return Row(text, num_fields, self.num_lines - num_lines + 1)

    def _stuck(self) -> BrokenRow | None:
        """Read on where the row may only be cut off by the end of the text held; else return why it cannot be read."""
        broken = self._diagnose(self._position)
        if broken is None:
            self._more()
        return broken

    def _diagnose(self, start: int) -> BrokenRow | None:
        """Return the row that begins at `start` as broken, having skipped it, or None where more text may mend it."""
        text, position = self._text, start
        while True:
            match = self._grammar.field.match(text, position)
            end = match.end() if match else position
            if text[position : position + 1] == '"':
                if end == position:
                    if self._is_open(position):
                        return self._skip(start, position, "csv_quote", "a quote that is never closed")
                    return None
                if self._too_long(text[position:end]):
                    return self._skip(start, position, "csv_quote", "a quote that is never closed")
                if text[end : end + 1] not in ("", self._delimiter, "\r", "\n"):
                    return self._skip(start, position, "csv_quote", "text after a closing quote")
            if end - start > MAX_ROW_CHARS:
                self.is_long = True
                return self._skip(start, end, "too_large", _TOO_LARGE)
            if text[end : end + 1] != self._delimiter:
                return None
            position = end + 1

    def _is_open(self, quote: int) -> bool:
        return self._ended or self._too_long(self._text[quote:])

    def _too_long(self, field: str) -> bool:
        self.is_long = self.is_long or len(field) > MAX_FIELD_CHARS
        return len(field) > MAX_FIELD_CHARS or field.count("\n") > MAX_FIELD_LINES or field.count("\r") > MAX_FIELD_LINES

    def _skip(self, start: int, place: int, reason: str, message: str) -> BrokenRow:
        """Go on at the line after the one that `place` stands on; a row past the limit is kept in part."""
        dropped = ""
        while (match := _PHYSICAL_LINE.match(self._text, place)) is None or match.end() == len(self._text):
            if len(self._text) - start > MAX_ROW_CHARS:
                self.is_long = True
                dropped = dropped or self._text[start : start + MAX_FIELD_CHARS]
                start = place = len(self._text) - 1
            if not self._more(keep=start):
                break
            place, start = place - start, 0
        end = match.end() if match else len(self._text)
        row = dropped + self._text[start:end]
        broken = BrokenRow(reason, message, row, self.num_lines + 1)
        self.num_lines += _count_lines(row)
        self._position = end
        return broken

    def _more(self, keep: int | None = None) -> bool:
        """Drop the text before `keep` (the position) and read at least as much again as is held; False at the end.

        Doubling keeps what is scanned twice in proportion. The last line gets a line end where the file has none.
        """
        if self._ended:
            return False
        self._drop(self._position if keep is None else keep)
        held = self._text
        pieces, size = [held], 0
        for piece in self._pieces:
            pieces.append(piece)
            size += len(piece)
            if size > len(held) and not piece.endswith("\r"):  # a CRLF is not cut
                break
        else:
            self._ended = True
        self._text = "".join(pieces)
        if self._ended and self._text and not self._text.endswith(("\r", "\n")):
            self._text += "\n"
        return bool(self._text)


def _cells(text: str, grid: Grid) -> list[str]:
    """Return the texts of a grid's cells."""
    cells = [text[start:end] for start, end in zip(grid.starts.tolist(), grid.ends.tolist(), strict=True)]
    for place in grid.doubled.tolist():
        cells[place] = cells[place].replace('""', '"')
    return cells


def _count_lines(text: str) -> int:
    num_feeds = text.count("\n")
    return num_feeds + text.count("\r") - text.count("\r\n") if "\r" in text else num_feeds
