"""SQLite database files as input: opened read-only and immutable, so that nothing beside them is read or written."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sftdata.errors import DamagedInputError, DataError, suggest
from sftdata.ingestors._encoding import undecodable
from sftdata.ingestors._sql_where import Selection
from sftdata.records import Bad, Record
from sftdata.sources import COMPRESSED, InputFile

_TRUTHS: dict[Any, Any] = {0: False, 1: True}
MAGIC = b"SQLite format 3\0"


def is_database(file: InputFile) -> bool:
    """Say whether a file is a SQLite database."""
    return file.read(len(MAGIC)) == MAGIC


class Database:
    """The tables of an open database file; views, virtual tables and SQLite's own tables are not among them."""

    def __init__(self, file: InputFile, connection: sqlite3.Connection) -> None:
        """Raises sqlite3.Error for a file that is no database."""
        self._file, self._connection = file, connection
        query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY rowid"
        self.tables: list[str] = [name for (name,) in connection.execute(query) if not name.startswith("sqlite_")]

    def rows(self, table: str, selection: Selection) -> Iterator[Record | Bad]:
        """Yield the rows of a table in the order in which they are stored. Raises DataError for an unknown or damaged table."""
        if table not in self.tables:
            raise DataError(f"{self._file.path}: no table {table!r}{suggest(table, self.tables)}")
        quoted = '"' + table.replace('"', '""') + '"'
        try:
            cursor = self._connection.execute(f"SELECT * FROM {quoted} NOT INDEXED")  # in the order of the rows' numbers
            names = [column[0] for column in cursor.description]
            declared = self._connection.execute(f"PRAGMA table_info({quoted})").fetchall()
            truths = {column[1] for column in declared if column[2].upper() in ("BOOLEAN", "BOOL")}
            selection.check(self._file.place, table, names)
            for number, row in enumerate(cursor):
                fields = {name: _json_value(value) for name, value in zip(names, row, strict=True)}
                for name in truths:
                    fields[name] = _TRUTHS.get(fields[name], fields[name])
                chosen = selection.apply(fields)
                if chosen is not None:
                    yield _record(f"{table}/{number}", chosen)
        except (sqlite3.Error, UnicodeError) as error:  # a name that is not UTF-8 is none that SQLite can be asked for
            raise DamagedInputError(f"{self._file.path}: table {table!r} cannot be read: {error}") from error


def _record(key: str, fields: dict[str, Any]) -> Record | Bad:
    for name, value in fields.items():
        if isinstance(value, str) and undecodable(value):
            return Bad(key, "encoding", f"column {name!r}: bytes that are not text", value.encode("utf-8", "surrogateescape"))
    return Record(key, fields)


def _json_value(value: Any) -> Any:
    """Return a stored value as JSON has it: bytes in hexadecimal digits, infinite numbers as text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and value - value != 0:
        return repr(value)
    return value


@contextmanager
def open_database(file: InputFile) -> Iterator[Database]:
    """Open a database file; one that is compressed or in an archive is unpacked into a temporary file first.

    Raises DataError for a file that is no database, or beside which a write-ahead log holds part of the data.
    """
    with tempfile.TemporaryDirectory(prefix="sftdata-database-") as folder:
        path = file.path
        log = path.with_name(path.name + "-wal")
        if log.is_file() and log.stat().st_size:
            raise DataError(f"{path}: {log.name} holds changes that are not in the file; run PRAGMA wal_checkpoint first")
        if file.member or path.suffix.lower() in COMPRESSED:
            path = Path(folder) / "unpacked.sqlite"
            with file.open() as packed, open(path, "wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
        uri = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
        try:
            with closing(sqlite3.connect(uri, uri=True)) as connection:
                connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("PRAGMA cell_size_check = ON")
                yield Database(file, connection)
        except sqlite3.Error as error:
            raise DamagedInputError(f"{file.place}: cannot be read as a database: {error}") from error
