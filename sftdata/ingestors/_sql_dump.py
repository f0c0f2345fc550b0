"""One reading of a SQL dump, statement by statement."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sftdata.errors import DataError
from sftdata.ingestors import _sql_tables as tables
from sftdata.ingestors._encoding import original_bytes, undecodable
from sftdata.ingestors._sql_rows import (
    PASSED_STATEMENTS,
    BrokenRows,
    Columns,
    RawRow,
    broken_statement,
    copy_rows,
    cut_off,
    insert_rows,
)
from sftdata.ingestors._sql_text import MAX_CHARS, QUALIFIED, Name, Window, patterns
from sftdata.ingestors._sql_where import Selection
from sftdata.records import Bad, Record
from sftdata.schemas import QUARANTINE_BYTES
from sftdata.sources import InputFile

HEAD_CHARS = 1 << 16
"""Characters by which the dialect is told, and that a statement takes up before its first row at most."""

_INSERT = re.compile(
    r"(?:INSERT|REPLACE)\b(?:\s+(?:LOW_PRIORITY|DELAYED|HIGH_PRIORITY|IGNORE|OR\s+\w+))*+\s+(?:INTO\s+)?"
    rf"(?P<table>{QUALIFIED})\s*+(?P<columns>\([^()]*+\))?\s*+(?:OVERRIDING\s+\w+\s+VALUE\s+)?(?P<values>VALUES?\b)?",
    re.IGNORECASE,
)
_COPY = re.compile(
    rf"COPY\s+(?P<table>{QUALIFIED})\s*+(?P<columns>\([^()]*+\))?\s+FROM\s+stdin\s*+;(?P<return>\r?)\n", re.IGNORECASE
)
_KEYWORD = re.compile(r"[A-Za-z]+")
_BODY = re.compile(r"CREATE\s+(?:(?:TEMP(?:ORARY)?\s+)?TRIGGER\b[^;$]*?\bBEGIN|[^;$]*?\bBEGIN\s+ATOMIC)\b", re.IGNORECASE)
"""A routine whose body holds statements of its own."""
_BODY_END = re.compile(r"\s*END\b", re.IGNORECASE)
_DELIMITER_BACK = re.compile(r"[ \t]+;[ \t]*\r?(?:\n|\Z)")
_UNKNOWN = "?"
"""The table of a bad row in ids, where the dump does not let it be known."""


class Look(NamedTuple):
    """What a dump looks like."""

    dialect: Name
    encoding: str


class Statement(NamedTuple):
    """An INSERT or COPY whose rows come next."""

    is_copy: bool
    table: str
    listed: str | None
    """The list of columns as the statement has it."""
    carriage_return: bool = False
    """True where the lines of a COPY end in a carriage return as well."""


class Dump:
    """One reading of a dump."""

    reads_values = True
    """False for a reading that only passes the rows."""

    def __init__(self, file: InputFile, window: Window, look: Look, table: str | None, selection: Selection) -> None:
        """`table`: the one to read, None: all but SQLite's own. The selection's columns name those that the dump does not."""
        self._file, self._window, self._dialect, self._encoding = file, window, look.dialect, look.encoding
        self._table, self._selection = table, selection
        self._patterns = patterns(look.dialect)
        self._created: dict[str, tables.Table] = {}
        self._numbers: Counter[str] = Counter()
        self._entered: Statement | None = None
        self.seen: set[str] = set()
        self.found = False

    def state(self) -> dict[str, Any]:
        """Return as JSON values what must be known to go on reading before the next row."""
        created = {name: list(table) for name, table in self._created.items()}
        return {"created": created, "numbers": dict(self._numbers), "statement": self._entered and list(self._entered)}

    def go_on(self, state: dict[str, Any]) -> None:
        """Stand where another reading stood when it returned this state; the window begins with the row that came next."""
        self._created = {name: tables.Table(*created) for name, created in state["created"].items()}
        self._numbers.update(state["numbers"])
        self._entered = Statement(*state["statement"]) if state["statement"] else None

    def rows(self) -> Iterator[Record | Bad]:
        """Yield the rows of all statements."""
        window = self._window
        if self._entered is not None:
            yield from self._rows_of(self._entered, window.position)
        while True:
            window.skip_gap(hash_comments=self._dialect == "mysql")
            window.ensure(HEAD_CHARS)
            if window.position >= len(window.text):
                break
            match = _KEYWORD.match(window.text, window.position)
            yield from self._statement(match[0].upper() if match else "")
        if window.in_comment:
            yield self._bad(_UNKNOWN, cut_off(window))

    def _statement(self, keyword: str) -> Iterator[Record | Bad]:
        if keyword in ("INSERT", "REPLACE"):
            return self._insert()
        if keyword == "COPY":
            return self._copy()
        if keyword == "DELIMITER":
            return self._pass_routines()
        if keyword == "CREATE" or keyword in PASSED_STATEMENTS or self._window.text.startswith(";", self._window.position):
            return self._pass_statement()
        return iter((self._bad(_UNKNOWN, broken_statement(self._window, "not a statement that a dump may hold")),))

    def _pass_statement(self) -> Iterator[Bad]:
        """Go behind a statement without rows; of CREATE TABLE keep the columns."""
        end = self._statement_end()
        if end is None:
            yield self._bad(_UNKNOWN, cut_off(self._window))
            return
        try:
            created = tables.read_create_table(self._window.text[self._window.position : end], self._dialect)
        except tables.NeverClosed:
            yield self._bad(_UNKNOWN, broken_statement(self._window, "a CREATE TABLE whose parentheses never close"))
            return
        if created is not None:
            self._created[created[0]] = created[1]
            self._meet(created[0])
        self._window.position = end

    def _statement_end(self) -> int | None:
        """Return the position behind the statement, with the statements of a routine's body; None where it is cut off."""
        window, size = self._window, 0
        while True:
            match = self._patterns.statement.match(window.text, window.position + size)
            if match is None:
                if len(window.text) - window.position > MAX_CHARS or not window.more():
                    return None
                continue
            size = match.end() - window.position
            if not _BODY.match(window.text, window.position, match.end()) or _BODY_END.match(match[0]):
                return match.end()

    def _pass_routines(self) -> Iterator[Bad]:
        """Go behind the routines between which the client's statement end is another one (DELIMITER ;; … DELIMITER ;)."""
        window = self._window
        while window.skip_past("\nDELIMITER"):
            window.ensure(64)
            if match := _DELIMITER_BACK.match(window.text, window.position):
                window.position = match.end()
                return
        yield self._bad(_UNKNOWN, cut_off(self._window))

    def _insert(self) -> Iterator[Record | Bad]:
        window = self._window
        head = _INSERT.match(window.text, window.position)
        if head is None or head["values"] is None:
            name = tables.label(head["table"]) if head else _UNKNOWN
            yield self._bad(name, broken_statement(window, "an INSERT that lists no VALUES"))
            return
        yield from self._rows_of(Statement(False, tables.label(head["table"]), head["columns"]), head.end())

    def _copy(self) -> Iterator[Record | Bad]:
        window = self._window
        head = _COPY.match(window.text, window.position)
        if head is None:
            yield self._bad(_UNKNOWN, broken_statement(window, "a COPY other than FROM stdin in text format"))
            return
        statement = Statement(True, tables.label(head["table"]), head["columns"], bool(head["return"]))
        yield from self._rows_of(statement, head.end())

    def _rows_of(self, statement: Statement, position: int) -> Iterator[Record | Bad]:
        """Yield the rows of a statement, the first of which stands at a position of the window."""
        self._entered, name = statement, statement.table
        names = self._names(name, statement.listed) if self._meet(name) else None
        self._window.position = position
        for row in self._copied(statement, names) if statement.is_copy else self._inserted(name, names):
            item = self._bad(name, row) if isinstance(row, BrokenRows) else self._taken(name, names, row)
            if item is not None:
                yield item

    def _inserted(self, name: str, names: list[str] | None) -> Iterator[RawRow | BrokenRows]:
        created = self._created.get(name) if self._dialect != "sqlite" else None  # there a text in a blob column is text
        known = names if names is not None and self.reads_values else []
        columns = Columns(len(known), tables.binary_places(created, known))
        return insert_rows(self._window, self._dialect, self._encoding, columns)

    def _copied(self, statement: Statement, names: list[str] | None) -> Iterator[RawRow | BrokenRows]:
        wanted = names is not None and self.reads_values
        converters = self._converters(statement.table, names) if names is not None and wanted else []
        for row in copy_rows(self._window, statement.carriage_return, wanted):
            if isinstance(row, RawRow):
                for place, convert in converters:
                    if place < len(row.values) and row.values[place] is not None:
                        row.values[place] = convert(row.values[place])
            yield row

    def _converters(self, name: str, names: list[str]) -> list[tuple[int, Callable[[str], Any]]]:
        """Return (place, function) of the columns whose text is a number or a truth value."""
        created = self._created.get(name)
        if created is None:
            return []
        kinds = dict(zip(created.columns, created.types, strict=True))
        found = [(place, tables.copy_converter(kinds.get(column, ""))) for place, column in enumerate(names)]
        return [(place, convert) for place, convert in found if convert is not None]

    def _meet(self, name: str) -> bool:
        """Note a table of the dump and say whether its rows are wanted."""
        self.seen.add(name)
        if self._table is None:
            return not name.startswith("sqlite_")
        wanted = self._table in (name, name.rpartition(".")[2])
        self.found = self.found or wanted
        return wanted

    def _names(self, name: str, listed: str | None) -> list[str]:
        """Return the names of a statement's columns. Raises DataError where nothing tells them, or not the chosen ones."""
        created = self._created.get(name)
        if listed is None and (created is None or not created.columns):
            if self._selection.columns is None:
                raise DataError(
                    f"{self._file.path}: line {self._window.line()}: neither CREATE TABLE nor INSERT names the columns of"
                    f" {name!r}; name them in order with columns: [...]"
                )
            return self._selection.columns
        names = tables.column_list(listed) if listed is not None else created.columns if created else []
        self._selection.check(self._file.place, name, names)
        return names

    def _taken(self, name: str, names: list[str] | None, row: RawRow) -> Record | Bad | None:
        """Return what becomes of a row; None where it is not selected: its number is used up all the same."""
        if names is None:
            return None
        if len(row.values) != len(names):
            message = f"{len(row.values)} values, the table has {len(names)} columns"
            return self._bad(name, BrokenRows("sql_columns", message, row.text, self._window.line()))
        if any(isinstance(value, str) and undecodable(value) for value in row.values):
            message = f"bytes that are not {self._encoding}"
            return self._bad(name, BrokenRows("encoding", message, row.text, self._window.line()))
        key = self._key(name)
        fields = self._selection.apply(dict(zip(names, row.values, strict=True)))
        return None if fields is None else Record(key, fields)

    def _bad(self, name: str, broken: BrokenRows) -> Bad:
        raw = original_bytes(broken.text[:QUARANTINE_BYTES], self._encoding)
        return Bad(self._key(name), broken.reason, f"line {broken.line}: {broken.message}", raw)

    def _key(self, name: str) -> str:
        number = self._numbers[name]
        self._numbers[name] += 1
        return f"{name}/{number}"
