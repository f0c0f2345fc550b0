"""`join`: two tables of one dump or database brought together by a key, with one of them in a temporary file on the disk."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from sftdata.errors import DataError, RecipeError, suggest
from sftdata.record_json import canonical, parse
from sftdata.records import Bad, Record

Rows = Callable[[str], Iterator[Record | Bad]]
"""From a table's name to all of its rows; called once for each table."""

UNKNOWN_TABLE = "?/"
"""How the key of a bad row begins of which nobody knows the table."""


class Join(NamedTuple):
    """The rows of `left` are brought together with those rows of `right` whose `right_key` equals their `left_key`."""

    left: str
    right: str
    left_key: str
    right_key: str


def read_join(table: str | None, join: dict[str, Any]) -> Join:
    """Return the join that the options name: `{table: answers, on: {id: question_id}}`. Raises RecipeError."""
    cure = "write join: {table: answers, on: {id: question_id}}, or on: id where both columns have one name"
    on = join.get("on")
    if set(join) != {"table", "on"} or not isinstance(join["table"], str):
        raise RecipeError(f"join {join!r}: {cure}")
    if isinstance(on, str):
        on = {on: on}
    if not isinstance(on, dict) or len(on) != 1 or not all(isinstance(name, str) for name in (*on, *on.values())):
        raise RecipeError(f"join on {join['on']!r}: {cure}")
    if table is None:
        raise RecipeError("join needs table: the table whose columns keep their names")
    if table == join["table"]:
        raise RecipeError(f"join: a table cannot be joined to itself: {table!r}")
    [(left_key, right_key)] = on.items()
    return Join(table, join["table"], left_key, right_key)


def joined(place: str, rows: Rows, join: Join) -> Iterator[Record | Bad]:
    """Yield a record for every pair of rows whose keys are equal, in the order of the right table, then of the left one.

    Its fields are those of the left row under their names and those of the right row as `table.column`; its key is
    `left/3+right/7`. Keys are compared as texts; NULL equals nothing. Rows without a partner give no record. Bad rows come as
    they are. Raises DataError for an unknown column.
    """
    with tempfile.TemporaryDirectory(prefix="sftdata-join-") as name, closing(sqlite3.connect(Path(name) / "left")) as store:
        store.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
        store.execute("CREATE TABLE t (key TEXT, id TEXT, fields TEXT)")
        yield from _store_left(place, rows(join.left), join, store)
        store.execute("CREATE INDEX k ON t (key)")
        for row in rows(join.right):
            if isinstance(row, Bad):
                yield row
                continue
            key = _key(place, join.right, join.right_key, row)
            theirs = {f"{join.right}.{name}": value for name, value in row.fields.items()}
            for number, fields in store.execute("SELECT id, fields FROM t WHERE key = ? ORDER BY rowid", (key,)):
                yield Record(f"{number}+{row.key}", {**parse(fields), **theirs})


def _store_left(place: str, rows: Iterator[Record | Bad], join: Join, store: sqlite3.Connection) -> Iterator[Bad]:
    for row in rows:
        if isinstance(row, Bad):
            if not row.key.startswith(UNKNOWN_TABLE):  # comes again with the right table
                yield row
            continue
        key = _key(place, join.left, join.left_key, row)
        if key is not None:
            store.execute("INSERT INTO t VALUES (?, ?, ?)", (key, row.key, canonical(row.fields)))


def _key(place: str, table: str, column: str, row: Record) -> str | None:
    if column not in row.fields:
        raise DataError(f"{place}: join: table {table!r} has no column {column!r}{suggest(column, row.fields)}")
    value = row.fields[column]
    return None if value is None else str(value)
