"""SQL dumps of MySQL, MariaDB, PostgreSQL and SQLite, parsed and never executed, and SQLite database files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sftdata.errors import DataError, RecipeError, suggest
from sftdata.ingestors._encoding import decode_stream, stream_encoding, text_encoding
from sftdata.ingestors._sql_database import is_database, open_database
from sftdata.ingestors._sql_dump import HEAD_CHARS, Dump, Look
from sftdata.ingestors._sql_join import joined, read_join
from sftdata.ingestors._sql_live import ADDRESSES, QUERY_TABLE, Asked, copy
from sftdata.ingestors._sql_pieces import PIECE_CHARS, cut
from sftdata.ingestors._sql_text import Window, tell_dialect
from sftdata.ingestors._sql_where import Selection, Where
from sftdata.records import Bad, Record
from sftdata.registry import ingestor
from sftdata.sources import InputFile, Piece, bare_suffix

Dialect = Literal["auto", "mysql", "postgresql", "sqlite"]

DATABASE = "sqlite database"
"""What `sniff` calls a database file."""

_CUT_ENCODINGS = ("utf-8", "cp1252", "iso8859-1")
"""Encodings that give back the bytes that a text was read from."""


class _Wanted(NamedTuple):
    table: str | None
    selection: Selection
    join: dict[str, Any] | None


def sniff(file: InputFile, *, dialect: Dialect = "auto", encoding: str = "utf-8", **_: Any) -> dict[str, Any]:
    """Return the dialect and encoding of a dump, or that the file is a SQLite database."""
    if is_database(file):
        return {"dialect": DATABASE}
    codec = stream_encoding(file) or text_encoding(encoding)
    with file.open() as stream:
        window = Window(decode_stream(stream, codec))
        window.ensure(HEAD_CHARS)
    if not window.text.strip():
        raise DataError(f"{file.path}: is empty")
    return {"dialect": tell_dialect(window.text[:HEAD_CHARS]) if dialect == "auto" else dialect, "encoding": codec}


def row_pieces(
    file: InputFile,
    *,
    table: str | None = None,
    columns: list[str] | None = None,
    join: dict[str, Any] | None = None,
    query: str | None = None,
    dialect: Dialect = "auto",
    encoding: str = "utf-8",
    **_: Any,
) -> list[Piece]:
    """Return the pieces of a large dump; none for a small, compressed or marked one, a database, and for a join."""
    plain = bare_suffix(file.name) == file.path.suffix.lower() and file.path.stat().st_size >= 2 * PIECE_CHARS
    if not plain or join is not None or query is not None or is_database(file) or stream_encoding(file) is not None:
        return []
    layout = sniff(file, dialect=dialect, encoding=encoding)
    if layout["encoding"] not in _CUT_ENCODINGS:
        return []
    pieces = cut(file, Look(layout["dialect"], layout["encoding"]), table, Selection(columns, None))
    return [piece._replace(layout=layout) for piece in pieces]


def fetch(
    address: str,
    folder: Path,
    *,
    table: str | None = None,
    query: str | None = None,
    where: str | None = None,
    join: dict[str, Any] | None = None,
    **_: Any,
) -> None:
    """Copy what is asked of a live database into a SQLite file in `folder`."""
    if query is not None and (table is not None or join is not None):
        raise RecipeError("query: stands alone; write table and join into it")
    if query is not None and not query.strip(" \t\r\n;"):
        raise RecipeError("query: is empty; write a SELECT")
    joined_table = read_join(table, join).right if join is not None else None
    asked = Asked(table, query, Where(where) if where is not None and query is None else None, joined_table)
    copy(address, folder, asked)


@ingestor(
    suffixes=(".sql", ".sqlite", ".sqlite3", ".db"),
    libraries=("sqlparse", "sqlalchemy"),
    pieces=row_pieces,
    sniff=sniff,
    fetch=fetch,
    addresses=ADDRESSES,
)
def sql(
    file: InputFile,
    *,
    table: str | None = None,
    columns: list[str] | None = None,
    where: str | None = None,
    join: dict[str, Any] | None = None,
    query: str | None = None,
    dialect: Dialect = "auto",
    encoding: str = "utf-8",
) -> Iterator[Record | Bad]:
    """Read rows of a SQL dump (mysqldump, pg_dump, sqlite .dump), which is never executed, a SQLite file or a live database.

    Rows come from INSERT, REPLACE and COPY … FROM stdin; ids are `table/number`, numbered by table. `table`: the one to read,
    by default all but SQLite's own. `columns`: the ones to keep; or, where the dump does not name them, their names in order.
    `where`: simple comparisons joined by `and` that a row must meet (score >= 3 and lang in ('zh', 'en') and body is not null).
    `join`: {table: answers, on: {id: question_id}} brings each row of `table` together with each row of the other one whose key
    is equal; its fields are `answers.column`, its id `questions/3+answers/7`; `where` and `columns` then speak of the pair.

    A path such as `postgresql://reader:${PASSWORD}@localhost/forum` (or mysql, mariadb, sqlite) is a live database: `table`, or
    `query`, a SELECT whose rows count as the table `query`, is copied once in a transaction that cannot write.

    Strings stay text, NULL is null, numbers keep their value (as text where no float has it), binary strings become hexadecimal
    digits. A row with too many or too few values is bad, and so is a statement that cannot be read: reading goes on behind its
    end. Raises DataError for an unknown table or column, and where nothing names the columns.
    """
    wanted = _Wanted(table, Selection(columns, Where(where) if where is not None else None), join)
    if query is not None:
        wanted = wanted._replace(table=QUERY_TABLE)
    look = (file.piece and file.piece.layout) or file.layout or sniff(file, dialect=dialect, encoding=encoding)
    if look["dialect"] == DATABASE:
        yield from _database_rows(file, wanted)
    elif query is not None:
        raise RecipeError("query: only a live database answers one; for a dump use table, where and join")
    else:
        yield from _dump_rows(file, Look(look["dialect"], look["encoding"]), wanted)


def _database_rows(file: InputFile, wanted: _Wanted) -> Iterator[Record | Bad]:
    with open_database(file) as database:
        if wanted.join is not None:
            pairs = joined(file.place, partial(database.rows, selection=Selection()), read_join(wanted.table, wanted.join))
            yield from _selected(file, pairs, wanted)
            return
        for table in [wanted.table] if wanted.table is not None else database.tables:
            yield from database.rows(table, wanted.selection)


def _dump_rows(file: InputFile, look: Look, wanted: _Wanted) -> Iterator[Record | Bad]:
    if wanted.join is None:
        yield from _read_dump(wanted.table, file=file, look=look, selection=wanted.selection)
        return
    rows = partial(_read_dump, file=file, look=look, selection=Selection())
    yield from _selected(file, joined(file.place, rows, read_join(wanted.table, wanted.join)), wanted)


def _read_dump(table: str | None, *, file: InputFile, look: Look, selection: Selection) -> Iterator[Record | Bad]:
    piece = file.piece or Piece(0, 0, 0, 0)
    state = piece.state or {"goes_on": False}
    with file.open() as stream:
        text = decode_stream(stream, look.encoding, begins=file.piece is None)
        dump = Dump(file, Window(text, piece.first_line, state["goes_on"]), look, table, selection)
        if piece.state:
            dump.go_on(piece.state)
        yield from dump.rows()
    if table is not None and not dump.found and file.piece is None:
        raise DataError(f"{file.path}: no table {table!r}{suggest(table, dump.seen)}")


def _selected(file: InputFile, pairs: Iterator[Record | Bad], wanted: _Wanted) -> Iterator[Record | Bad]:
    """Yield the wanted fields of the wanted pairs."""
    checked = False
    for pair in pairs:
        if isinstance(pair, Record):
            if not checked:
                wanted.selection.check(file.place, f"{wanted.table} joined", pair.fields)
                checked = True
            fields = wanted.selection.apply(pair.fields)
            if fields is None:
                continue
            pair = pair._replace(fields=fields)
        yield pair
