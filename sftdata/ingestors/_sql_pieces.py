"""A large dump cut into pieces between rows: found by reading its structure alone, as the reader itself would."""

from __future__ import annotations

from typing import Any

from sftdata.ingestors._encoding import decode_stream
from sftdata.ingestors._sql_dump import Dump, Look
from sftdata.ingestors._sql_rows import RawRow
from sftdata.ingestors._sql_text import MAX_CHARS, Window
from sftdata.ingestors._sql_where import Selection
from sftdata.sources import InputFile, Piece

PIECE_CHARS = 4 << 20
"""A dump is cut before the first row after so many characters: whatever the number of workers."""


def cut(file: InputFile, look: Look, table: str | None, selection: Selection) -> list[Piece]:
    """Return the pieces of a dump; none where what comes out of it could depend on where it is cut.

    That is where a statement cannot be read, since where reading goes on behind it depends on what follows; where a row is as
    long as the reader's limit; and where the table is not found. The encoding must give back the bytes that it was read from.
    """
    with file.open() as stream:
        scan = _Scan(file, _CountedWindow(decode_stream(stream, look.encoding), look.encoding), look, table, selection)
        unreadable = next(scan.rows(), None)
    if unreadable is not None or scan.has_long_row or (table is not None and not scan.found):
        return []
    return scan.pieces(file.path.stat().st_size)


class _CountedWindow(Window):
    """A window that knows how many bytes of the file lie before its position."""

    def __init__(self, texts: Any, encoding: str) -> None:
        super().__init__(texts)
        self._encoding, self._num_chars, self._num_bytes = encoding, 0, 0

    def more(self, keep: int | None = None) -> bool:
        dropped = self.text[: self.position if keep is None else keep]
        self._num_chars += len(dropped)
        self._num_bytes += len(dropped.encode(self._encoding, "surrogateescape"))
        return super().more(keep)

    @property
    def num_chars(self) -> int:
        return self._num_chars + self.position

    @property
    def num_bytes(self) -> int:
        return self._num_bytes + len(self.text[: self.position].encode(self._encoding, "surrogateescape"))


class _Scan(Dump):
    """A reading that passes all rows and notes where pieces begin."""

    reads_values = False
    _window: _CountedWindow

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._pieces: list[Piece] = []
        self._first = Piece(0, 0, 0, 0, None, self.state())
        self._first_char, self._num_records = 0, 0
        self._tables: set[str] = set()
        """Those of which the present piece holds rows or the heads of statements."""
        self.has_long_row = False

    def pieces(self, size: int) -> list[Piece]:
        """Return the pieces, once all rows have passed; none where one would do. `size`: that of the file in bytes."""
        return [*self._pieces, self._closed(size, goes_on=False)] if self._pieces else []

    def _meet(self, name: str) -> bool:
        self._tables.add(name)
        return super()._meet(name)

    def _taken(self, name: str, names: list[str] | None, row: RawRow) -> None:
        window = self._window
        if window.num_chars - self._first_char >= PIECE_CHARS:
            start = window.num_bytes
            self._pieces.append(self._closed(start, goes_on=True))
            self._first = Piece(start, 0, self._num_records, window.line() - 1, None, self.state())
            self._first_char, self._tables = window.num_chars, set()
        self._tables.add(name)
        self.has_long_row = self.has_long_row or len(row.text) > MAX_CHARS
        if names is not None:
            self._key(name)
            self._num_records += 1

    def _closed(self, end: int, *, goes_on: bool) -> Piece:
        """Return the present piece up to a byte; of tables it knows its own: a dump may have thousands."""
        known = self._first.state or {}
        state = {
            "created": {name: created for name, created in known["created"].items() if name in self._tables},
            "numbers": {name: known["numbers"].get(name, 0) for name in sorted(self._tables)},
            "statement": known["statement"],
            "goes_on": goes_on,
        }
        return self._first._replace(length=end - self._first.start, state=state)
