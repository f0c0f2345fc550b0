"""CSV a buffer at a time: where all rows and cells end, told from the places of quotes, delimiters and line ends.

A quote that no field begins with would turn inside and outside around for the rest of the text: reading stops before its row,
and the row-by-row scan has to go on from there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MAX_FIELD_CHARS = 8 << 20
"""Characters of a quoted field from which its quote counts as never closed …"""
MAX_FIELD_LINES = 1000
"""… and lines that such a field may span."""

Places = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.uint32]

_QUOTE, _LINE_FEED, _RETURN = b'"\n\r'


class Grid(NamedTuple):
    """The cells of whole rows, row after row; blank lines are left out."""

    starts: Places
    """Where each cell's text begins, behind its quote if it has one …"""
    ends: Places
    """… and ends."""
    doubled: Places
    """The cells in which quotes are doubled."""
    row_ends: Places
    """For each row the number of cells up to its end …"""
    lines: Places
    """… where it begins …"""
    line_ends: Places
    """… and where its line end stands."""
    length: int
    """Characters up to behind the line end of the last row."""
    num_lines: int
    """Line ends in them."""


def find_cells(text: str, delimiter: str) -> Grid | None:
    """Return the rows at the beginning of a text that are whole, up to the first that has to be read alone.

    Returns None where there are none, and for text that holds undecodable bytes.
    """
    codes = _codes(text)
    if codes is None:
        return None
    separating = (codes == ord(delimiter)) | (codes == _LINE_FEED)
    if "\r" in text:
        returns = codes == _RETURN
        paired = returns[:-1] & (codes[1:] == _LINE_FEED)
        separating |= returns
        separators = separating.nonzero()[0] if not paired.any() else _without_paired(separating, paired)
    else:
        separators = separating.nonzero()[0]
    quotes = (codes == _QUOTE).nonzero()[0]
    limit = len(codes)
    if len(quotes):
        limit = _first_odd_quote(codes, quotes, separating)
        separators = separators[(quotes.searchsorted(separators) & 1) == 0]
    separators = separators[: separators.searchsorted(limit)]
    return _grid(codes, separators, quotes, ord(delimiter))


def _without_paired(separating: Marks, paired: Marks) -> Places:
    """Return the places of separators; of a CRLF the line feed alone counts."""
    separating = separating.copy()
    separating[:-1] &= ~paired
    return separating.nonzero()[0]


def _codes(text: str) -> Codes | None:
    """Return the text's characters as numbers, in the narrowest type that holds them; None where some are undecodable."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    try:
        narrow = text.encode("utf-16-le")
        if len(narrow) == 2 * len(text):
            return np.frombuffer(narrow, dtype="<u2")
        return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    except UnicodeEncodeError:
        return None


def _first_odd_quote(codes: Codes, quotes: Places, separating: Marks) -> int:
    """Return the place of the first quote that is neither around a field nor doubled in one; the text's length for none."""
    opening, closing = quotes[0::2], quotes[1::2]
    if closing.size and closing[-1] == len(codes) - 1:
        closing = closing[:-1]  # what follows is not here yet: no row ends behind it either
    twin = np.zeros(len(opening) + 1, dtype=bool)  # twin[k]: the quote that closes before the k-th opens stands next to it
    both = min(len(closing), len(opening) - 1)
    twin[1 : both + 1] = opening[1 : both + 1] == closing[:both] + 1
    opens = (opening == 0) | separating[opening - 1] | twin[: len(opening)]
    closes = separating[closing + 1] | twin[1 : len(closing) + 1]
    odd = [int(places[~fits][0]) for places, fits in ((opening, opens), (closing, closes)) if not fits.all()]
    return min(odd, default=len(codes))


def _grid(codes: Codes, separators: Places, quotes: Places, delimiter: int) -> Grid | None:
    """Return the cells between separators up to the last line end."""
    row_ends = (codes[separators] != delimiter).nonzero()[0]
    if not len(row_ends):
        return None
    ends = separators[: row_ends[-1] + 1]
    starts = np.concatenate(([0], ends[:-1] + 1))
    firsts = np.concatenate(([0], row_ends[:-1] + 1))
    # A return before a line feed is no text of the last cell.
    ends[row_ends] -= (ends[row_ends] > 0) & (codes[ends[row_ends]] == _LINE_FEED) & (codes[ends[row_ends] - 1] == _RETURN)
    lines, line_ends = starts[firsts], ends[row_ends]
    filled = lines < line_ends
    filled |= firsts < row_ends
    if not filled.any():
        return None
    if not filled.all():
        blank = row_ends[~filled]
        starts, ends = np.delete(starts, blank), np.delete(ends, blank)
        row_ends = row_ends[filled] - np.arange(len(row_ends))[filled] + np.arange(int(filled.sum()))
        lines, line_ends = lines[filled], line_ends[filled]
    grid = Grid(starts, ends, quotes[:0], row_ends + 1, lines, line_ends, 0, 0)
    if len(quotes):
        grid = _without_quotes(codes, quotes, grid)
    return _measured(codes, grid) if len(grid.lines) else None


def _measured(codes: Codes, grid: Grid) -> Grid:
    """Return the grid with its length and number of lines."""
    length = int(grid.line_ends[-1]) + 1
    length += int(codes[length - 1] == _RETURN and codes[length : length + 1].tolist() == [_LINE_FEED])
    feeds, returns = codes[:length] == _LINE_FEED, codes[:length] == _RETURN
    num_lines = np.count_nonzero(feeds) + np.count_nonzero(returns) - np.count_nonzero(feeds[1:] & returns[:-1])
    return grid._replace(length=length, num_lines=int(num_lines))


def _without_quotes(codes: Codes, quotes: Places, grid: Grid) -> Grid:
    """Return the cells without the quotes around them, up to a row with a field that is too long to be meant."""
    quoted = (codes[grid.starts] == _QUOTE) & (grid.ends > grid.starts)
    long = _long_fields(codes, grid, quoted)
    if len(long):
        num_rows = int(grid.row_ends.searchsorted(long[0], side="right"))
        num_cells = int(grid.row_ends[num_rows - 1]) if num_rows else 0
        quoted = quoted[:num_cells]
        grid = grid._replace(
            starts=grid.starts[:num_cells],
            ends=grid.ends[:num_cells],
            row_ends=grid.row_ends[:num_rows],
            lines=grid.lines[:num_rows],
            line_ends=grid.line_ends[:num_rows],
        )
    places = quoted.nonzero()[0]
    num_quotes = quotes.searchsorted(grid.ends[places]) - quotes.searchsorted(grid.starts[places])
    return grid._replace(starts=grid.starts + quoted, ends=grid.ends - quoted, doubled=places[num_quotes > 2])


def _long_fields(codes: Codes, grid: Grid, quoted: Marks) -> Places:
    """Return the quoted cells past the limits on characters and lines."""
    too_long = quoted & (grid.ends - grid.starts > MAX_FIELD_CHARS)
    for mark in (_LINE_FEED, _RETURN):
        places = (codes == mark).nonzero()[0]
        if len(places) > MAX_FIELD_LINES:
            too_long |= quoted & (places.searchsorted(grid.ends) - places.searchsorted(grid.starts) > MAX_FIELD_LINES)
    return too_long.nonzero()[0]
