"""What comes of SQLite's own dumps, files and expressions is what SQLite itself makes of them."""

from __future__ import annotations

import math
import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.ingestors.sql import sql
from sftdata.records import Bad, Record
from sftdata.sources import InputFile

NUM_CASES = int(os.environ.get("SFTDATA_FUZZ_TABLES", "150"))


def values(path: Path) -> list[list[Any]]:
    """Return the values of every row of a dump or database, all of which must be readable."""
    rows = list(sql(InputFile(path, path.name)))
    assert all(isinstance(row, Record) for row in rows), rows
    return [list(row.fields.values()) for row in rows if isinstance(row, Record)]


def same(value: Any, other: Any) -> bool:
    exact = type(value) is type(other) and value == other
    return exact or (isinstance(value, float) and isinstance(other, float) and math.isclose(value, other, rel_tol=1e-15))


NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
"""Without NUL, at which SQLite itself cuts a text that it writes as a literal."""
VALUES = st.none() | NUMBERS | TEXT | st.binary(max_size=6)


@settings(max_examples=NUM_CASES, deadline=None)
@given(table=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=6))
def test_sql_of_sqlite_comes_back_from_its_dump_and_its_file(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[Any, ...]]
) -> None:
    path = tmp_path_factory.mktemp("sqlite") / "a.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute('CREATE TABLE "the table" (a, "b c")')
        database.executemany('INSERT INTO "the table" VALUES (?, ?)', table)
        database.commit()
        stored = database.execute('SELECT * FROM "the table"').fetchall()
        dump = "\n".join(database.iterdump())
    wanted = [[value.hex() if isinstance(value, bytes) else value for value in row] for row in stored]
    finite = [[value if not isinstance(value, float) or value - value == 0 else str(value) for value in row] for row in wanted]
    assert values(path) == finite
    written = path.with_suffix(".sql")
    written.write_text(dump + "\n", encoding="utf-8", newline="")
    if wanted == finite:  # sqlite itself writes an infinite number as one that is too large
        for row, found in zip(wanted, values(written), strict=True):  # which writes floats with a last digit of its own
            assert all(same(*pair) for pair in zip(row, found, strict=True))


CHAINS = st.recursive(
    st.sampled_from(str.split("1 -2.50 1e3 NULL 0x1F 0xFFFFFFFFFFFFFFFF X'4142' 'a''b' '\\n' '--' '' char(10,20320)")),
    lambda inner: st.builds("replace({}, 'a', {})".format, inner, inner) | st.builds("{} || {}".format, inner, inner),
    max_leaves=4,
)


@settings(max_examples=NUM_CASES, deadline=None)
@given(expression=CHAINS, space=st.sampled_from(["", " ", "\n/* ; */", "-- ')\n"]))
def test_sql_expressions_of_dumps_are_what_sqlite_makes_of_them(
    tmp_path_factory: pytest.TempPathFactory, expression: str, space: str
) -> None:
    statement = f"INSERT INTO t (a, b) VALUES ({space}{expression}{space},{space}2{space});\n"
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE t (a, b)")
        database.execute(statement)
        [(value, _)] = database.execute("SELECT * FROM t").fetchall()
    path = tmp_path_factory.getbasetemp() / "expression.sql"
    path.write_text("PRAGMA foreign_keys=OFF;\n" + statement, encoding="utf-8")
    [row] = sql(InputFile(path, path.name))
    if isinstance(row, Bad):
        assert re.search(r"replace|\|\|", expression) and re.search(r"X'|0x|[.]|1e3", expression), row  # refused, not guessed
    else:
        assert row.fields["a"] == (value.hex() if isinstance(value, bytes) else value), statement
