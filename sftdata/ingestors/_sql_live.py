"""Live databases: what a URL and a table or a query name is copied, in one transaction, into a SQLite file to be read."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from sftdata.errors import DataError, RecipeError, suggest
from sftdata.ingestors._sql_values import number
from sftdata.ingestors._sql_where import Comparison, Where

QUERY_TABLE = "query"
"""The table that holds what a query gives."""

_PAGE_ROWS = 5000
"""Rows of one range of keys."""
_FETCHED_ROWS = 500
"""Rows that are held at a time."""
_CONNECT_SECONDS = 30
_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
ADDRESSES = tuple(f"{name}{mark}" for name in (*_DRIVERS, "sqlite") for mark in ("+", "://"))
"""How the URLs of databases begin: with the kind, or with kind and driver."""
_SELECT = re.compile(r"[\s(]*(?:select|with|values|table)\b", re.IGNORECASE)
_INTO_FILE = re.compile(r"\binto\s+(?:outfile|dumpfile)\b", re.IGNORECASE)
_WRITING = {sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH}
"""What a file that is opened for reading alone does not refuse by itself."""
_COLON = re.compile(r"(?<![:\w\\]):(?=\w)")
"""What SQLAlchemy takes for the beginning of a parameter's name."""
_PASSWORD = re.compile(r"(?<=:)[^:/@]+(?=@)")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class Asked(NamedTuple):
    """What of a database is asked for."""

    table: str | None
    query: str | None
    where: Where | None
    joined: str | None
    """The second table of a join."""


def copy(address: str, folder: Path, asked: Asked) -> None:
    """Copy tables of the database at a URL, or the rows of a query, into `folder/DATABASE.sqlite`.

    All is read in one transaction that can write nothing. A table with a primary key comes in the order and in ranges of its
    keys, any other one, and a query, in the server's order. Raises RecipeError for a URL that cannot be used, DataError for
    what the server refuses.
    """
    try:
        import sqlalchemy
    except ImportError as error:
        raise RecipeError('reading a database needs the library sqlalchemy: pip install "sftdata[sql]"') from error

    url = _url(address)
    shown = url.render_as_string(hide_password=True)
    target = folder / f"{Path(url.database or 'database').stem}.sqlite"
    try:
        engine = sqlalchemy.create_engine(url, **_options(url), poolclass=sqlalchemy.NullPool, pool_reset_on_return=None)
        with engine.connect().execution_options(stream_results=True) as connection, closing(sqlite3.connect(target)) as store:
            _keep_dates_as_text(connection)
            store.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
            for name, columns, rows in _tables(connection, asked, shown):
                _store(store, name, columns, rows)
            store.commit()
    except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
        cure = 'leave out what follows the +, and run pip install "sftdata[sql]"'
        raise RecipeError(f"{shown}: its driver is not installed ({error}); {cure}") from error
    except (sqlalchemy.exc.SQLAlchemyError, sqlite3.Error) as error:
        why = getattr(error, "orig", None) or error
        raise DataError(f"{shown}: cannot be read: {' '.join(str(why).split())[:300]}") from error


def _url(address: str) -> Any:
    """Return the URL with its variables filled in and the driver named."""
    import sqlalchemy

    try:
        written = sqlalchemy.make_url(address)
        if isinstance(written.password, str) and not _VARIABLE.search(written.password):
            raise RecipeError(f"{written.render_as_string()}: write no password here; name a variable: user:${{PASSWORD}}@host")
        url = sqlalchemy.make_url(_VARIABLE.sub(_variable, address))
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:
        shown = _PASSWORD.sub("***", address)
        raise RecipeError(f"{shown}: cannot be read as a URL: {_PASSWORD.sub('***', str(error))}") from error
    scheme, plus, _ = url.drivername.partition("+")
    if url.get_backend_name() not in ("postgresql", "mysql", "mariadb", "sqlite") and scheme not in _DRIVERS:
        raise RecipeError(f"{address}: no such kind of database; known: mariadb, mysql, postgresql, sqlite")
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise RecipeError(f"{address}: no such file; write sqlite:///relative/path.db or sqlite:////absolute/path.db")
    return url if plus else url.set(drivername=_DRIVERS.get(scheme, scheme))


def _variable(match: re.Match[str]) -> str:
    from urllib.parse import quote

    value = os.environ.get(match[1])
    if value is None:
        raise RecipeError(f"the variable {match[1]} is not set; the address of the database names it")
    return quote(value, safe="")


def _options(url: Any) -> dict[str, Any]:
    """Return how to open a database so that it is read as it is at one moment and never written."""
    if url.get_backend_name() == "sqlite":
        path = Path(url.database).absolute()
        return {"creator": lambda: _open_sqlite(path)}
    options: dict[str, Any] = {"isolation_level": "REPEATABLE READ"}
    if url.get_backend_name() == "postgresql":
        arguments = {"connect_timeout": _CONNECT_SECONDS} if "connect_timeout" not in url.query else {}
        return {**options, "execution_options": {"postgresql_readonly": True}, "connect_args": arguments}
    return {**options, "connect_args": {"init_command": "SET SESSION TRANSACTION READ ONLY"}}


def _open_sqlite(path: Path) -> sqlite3.Connection:
    """Open a file so that no statement writes, to it or to any other."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_DENY if action in _WRITING else sqlite3.SQLITE_OK)

    def text(data: bytes) -> str:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: a text that is not UTF-8: {data[:40]!r}; given as a path, only its row is bad") from error

    connection.text_factory = text
    return connection


def _keep_dates_as_text(connection: Any) -> None:
    """Let PostgreSQL's dates and times come as it writes them: Python has none before year 1, past 9999 or infinite."""
    if connection.dialect.driver == "psycopg":
        from psycopg.types.string import TextLoader

        for name in ("date", "timestamp", "timestamptz", "time", "timetz", "interval"):
            connection.connection.dbapi_connection.adapters.register_loader(name, TextLoader)


Table = tuple[str, dict[str, str], Iterator[Sequence[Any]]]
"""A table's name, its columns with the type that the copy declares, and its rows."""


def _tables(connection: Any, asked: Asked, shown: str) -> Iterator[Table]:
    import sqlalchemy

    if asked.query is not None:
        if not _SELECT.match(asked.query) or _INTO_FILE.search(asked.query):
            raise RecipeError("query: only reads: write SELECT ..., WITH ... or VALUES ...")
        with connection.execute(sqlalchemy.text(_COLON.sub(r"\\:", asked.query.strip().rstrip(";")))) as result:
            names = list(result.keys()) if result.returns_rows else []
            if not names:
                raise RecipeError("query: gives no columns; write SELECT ...")
            double = next((name for name in names if names.count(name) > 1), None)
            if double is not None:
                raise RecipeError(f"query: gives two columns {double!r}; name one of them with AS")
            yield QUERY_TABLE, dict.fromkeys(names, ""), _fetched(result)
        return
    inspector = sqlalchemy.inspect(connection)
    wanted = [name for name in (asked.table, asked.joined) if name is not None] or sorted(inspector.get_table_names())
    for name in wanted:
        table = _reflected(inspector, name, shown)
        for column in table.columns:
            if isinstance(column.type, sqlalchemy.Float):
                column.type.asdecimal = False  # else MySQL's doubles come rounded to ten places
        where = asked.where if asked.joined is None else None
        kinds = {column.name: "BOOLEAN" if isinstance(column.type, sqlalchemy.Boolean) else "" for column in table.columns}
        yield name, kinds, _rows(connection, table, where)


def _reflected(inspector: Any, name: str, shown: str) -> Any:
    """Return a table as the server describes it; a dot parts schema and table where no table has it in its name."""
    import sqlalchemy

    known, schema, bare = inspector.get_table_names(), "", name
    if name not in known and "." in name:
        schema, _, bare = name.rpartition(".")
        known = inspector.get_table_names(schema=schema)
    if bare not in known:
        raise DataError(f"{shown}: no table {name!r}{suggest(bare, known)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sqlalchemy.exc.SAWarning)  # types that it does not know come as the driver gives them
        return sqlalchemy.Table(bare, sqlalchemy.MetaData(), schema=schema or None, autoload_with=inspector.bind)


def _rows(connection: Any, table: Any, where: Where | None) -> Iterator[Sequence[Any]]:
    """Yield a table's rows, range by range of its primary key where it has one."""
    import sqlalchemy

    select = sqlalchemy.select(table)
    for comparison in where.comparisons if where else ():
        select = _narrowed(select, table, comparison)
    keys = list(table.primary_key.columns)
    if not keys or connection.dialect.name == "sqlite":  # in SQLite keys may be NULL; its tables are stored in order
        yield from _fetched(connection.execute(select))
        return
    places = [list(table.columns).index(key) for key in keys]
    last: list[Any] = []
    while True:
        page = select.where(_behind(keys, last)) if last else select
        count = 0
        for row in _fetched(connection.execute(page.order_by(*keys).limit(_PAGE_ROWS))):
            yield row
            count += 1
            last = [row[place] for place in places]
        if count < _PAGE_ROWS:
            return


def _behind(keys: Sequence[Any], last: Sequence[Any]) -> Any:
    """Return the condition for keys behind `last`, in a form for which every server uses the key's index."""
    import sqlalchemy

    if len(keys) == 1:
        return keys[0] > last[0]
    inner = _behind(keys[1:], last[1:])
    return sqlalchemy.and_(keys[0] >= last[0], sqlalchemy.or_(keys[0] > last[0], inner))


def _narrowed(select: Any, table: Any, comparison: Comparison) -> Any:
    """Let the server leave rows out where it compares as the reader will; texts it may hold equal that differ in case."""
    import sqlalchemy

    if comparison.column not in table.columns:
        return select  # named when the copy is read
    column = table.columns[comparison.column]
    name, values = comparison.operator, comparison.values
    if name in ("is null", "is not null"):
        return select.where(column.is_(None) if name == "is null" else column.is_not(None))
    numbers = isinstance(column.type, sqlalchemy.Numeric | sqlalchemy.Integer) and all(isinstance(v, Decimal) for v in values)
    texts = isinstance(column.type, sqlalchemy.String) and all(isinstance(value, str) for value in values)
    if name in ("=", "in") and (numbers or texts):
        return select.where(column.in_(values))
    if numbers and name in ("<", "<=", ">", ">="):
        return select.where(column.op(name)(values[0]))
    return select


def _fetched(result: Any) -> Iterator[Sequence[Any]]:
    with result:
        try:
            for rows in result.partitions(_FETCHED_ROWS):
                yield from rows
        except Exception:
            _let_go(result)
            raise


def _let_go(result: Any) -> None:
    """Let pymysql read no more from a server that is gone: it would when the result is deleted, and print why it cannot."""
    unread: Any = getattr(result.cursor, "_result", None)
    if getattr(unread, "unbuffered_active", False):
        unread.unbuffered_active = False
        unread.connection._result = None


def _store(store: sqlite3.Connection, name: str, columns: dict[str, str], rows: Iterator[Sequence[Any]]) -> None:
    quoted = [f"{_quoted(column)} {kind}".strip() for column, kind in columns.items()]
    store.execute(f"CREATE TABLE {_quoted(name)} ({', '.join(quoted)})")
    marks = ", ".join("?" * len(columns))
    store.executemany(f"INSERT INTO {_quoted(name)} VALUES ({marks})", (tuple(map(_stored, row)) for row in rows))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _stored(value: Any) -> Any:
    """Return a value as SQLite holds it: what it has no type for as the text that a dump would show."""
    if value is None or isinstance(value, str | float | bytes | bool):
        return value
    if isinstance(value, Decimal):
        value = number(str(value)) if value.is_finite() else str(value)
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value if isinstance(value, str | float) else str(value)
