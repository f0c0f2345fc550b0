"""Options of the SQL ingestor: where, columns, the join of two tables; and database files, which are only ever read."""

from __future__ import annotations

import gzip
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.errors import DamagedInputError, DataError, RecipeError
from sftdata.ingestors._sql_where import Where
from sftdata.ingestors.sql import sniff, sql
from sftdata.records import Bad, Record
from sftdata.sources import InputFile

DUMP = """-- MySQL dump
CREATE TABLE `answers` (`id` int, `question_id` int, `body` text, `score` int) ENGINE=InnoDB;
INSERT INTO `answers` VALUES (1,2,'yes',5),(2,1,'no',-1),(3,2,NULL,0),(4,9,'lost',1),(5,NULL,'x',1),(6);
CREATE TABLE `questions` (`id` int, `title` text) ENGINE=InnoDB;
INSERT INTO `questions` VALUES (1,'Why?'),(2,'Does it?'),(3,'Alone?');
EVIL;
"""


def read(folder: Path, dump: str, name: str = "a.sql", **options: Any) -> list[Record | Bad]:
    path = folder / name
    path.write_text(dump, encoding="utf-8")
    return list(sql(InputFile(path, name), **options))


def database(folder: Path, *statements: str, name: str = "a.sqlite") -> Path:
    path = folder / name
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return path


def test_where_keeps_the_rows_that_meet_it_with_their_numbers(tmp_path: Path) -> None:
    rows = read(tmp_path, DUMP, table="answers", where="score >= 0 and body is not null", columns=["body"])
    assert [row for row in rows if isinstance(row, Record)] == [
        Record("answers/0", {"body": "yes"}),
        Record("answers/3", {"body": "lost"}),
        Record("answers/4", {"body": "x"}),
    ]
    assert [row.key for row in rows if isinstance(row, Bad)] == ["answers/5", "?/0"]


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("n = 2", [2]),
        ("n != 2", [1, 10]),
        ("n <> 2 and n < 5", [1]),
        ("n > 9", [10]),
        ("n in (1, 10)", [1, 10]),
        ("n not in (1, 10)", [2]),
        ("t = 'it''s'", [1]),
        ("t is null", [10]),
        ("t IS NOT NULL AND n<=2", [1, 2]),
        ('"odd name" = true', [2]),
        ("`odd name` = 0", [1]),
        ("n = '2'", [2]),
        ("t > 5", []),
    ],
)
def test_where_compares_as_sql_does(where: str, wanted: list[int]) -> None:
    rows = [
        {"n": 1, "t": "it's", "odd name": False},
        {"n": 2, "t": "b", "odd name": True},
        {"n": 10, "t": None, "odd name": None},
    ]
    assert [row["n"] for row in rows if Where(where).holds(row)] == wanted


@pytest.mark.parametrize(
    "where", ["", "n", "n =", "n = 1 or n = 2", "n = m", "f(n) = 1", "n = 1 and", "(n = 1)", "n ~ 'x'", "n in 1"]
)
def test_where_that_is_no_simple_comparison_is_an_error(where: str) -> None:
    with pytest.raises(RecipeError, match=r"cannot be read at .*; write comparisons joined by and"):
        Where(where)


TEXTS = st.text(st.sampled_from("ab'"), max_size=2)


@pytest.mark.parametrize("name", [b"table_t", b"column_c"])
def test_sqlite_name_that_is_no_text_is_one_line(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / "a.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE table_t (column_c)")
        connection.execute("INSERT INTO table_t VALUES (1)")
        connection.commit()
    path.write_bytes(path.read_bytes().replace(name, name[:-1] + b"\xff"))
    with pytest.raises(DamagedInputError, match=r"a\.sqlite: table '[^\n]*' cannot be read: 'utf-8' codec"):
        list(sql(InputFile(path, path.name)))


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.tuples(st.none() | st.integers(-3, 3), st.none() | TEXTS), max_size=8),
    number=st.integers(-3, 3),
    text=TEXTS,
    operators=st.tuples(*[st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "in", "not in"])] * 2),
)
def test_where_agrees_with_sqlite(rows: list[tuple[Any, Any]], number: int, text: str, operators: tuple[str, str]) -> None:
    literal = "'" + text.replace("'", "''") + "'"
    where = f"n {operators[0]} ({number}) and t {operators[1]} ({literal})"
    for plain in {*operators} - {"in", "not in"}:
        where = where.replace(f"n {plain} ({number})", f"n {plain} {number}")
        where = where.replace(f"{plain} ({literal})", f"{plain} {literal}")
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE r (n INTEGER, t TEXT)")
        connection.executemany("INSERT INTO r VALUES (?, ?)", rows)
        wanted = connection.execute(f"SELECT n, t FROM r WHERE {where} ORDER BY rowid").fetchall()
    asked = Where(where)
    assert [row for row in rows if asked.holds({"n": row[0], "t": row[1]})] == wanted


def test_join_brings_questions_and_answers_together(tmp_path: Path) -> None:
    join = {"table": "answers", "on": {"id": "question_id"}}
    rows = read(tmp_path, DUMP, table="questions", join=join, columns=["title", "answers.body"], where="answers.score >= 0")
    assert [row for row in rows if isinstance(row, Record)] == [
        Record("questions/1+answers/0", {"title": "Does it?", "answers.body": "yes"}),
        Record("questions/1+answers/2", {"title": "Does it?", "answers.body": None}),
    ]
    assert sorted(row.key for row in rows if isinstance(row, Bad)) == ["?/0", "answers/5"]


def test_join_on_one_name_and_from_a_database(tmp_path: Path) -> None:
    path = database(
        tmp_path,
        "CREATE TABLE a (k TEXT, x INTEGER)",
        "INSERT INTO a VALUES ('1', 7), ('1', 8), ('2', 9)",
        "CREATE TABLE b (k INTEGER, y TEXT)",
        "INSERT INTO b VALUES (1, 'one'), (3, 'three')",
    )
    rows = list(sql(InputFile(path, path.name), table="a", join={"table": "b", "on": "k"}))
    assert rows == [
        Record("a/0+b/0", {"k": "1", "x": 7, "b.k": 1, "b.y": "one"}),
        Record("a/1+b/0", {"k": "1", "x": 8, "b.k": 1, "b.y": "one"}),
    ]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"join": {"table": "answers", "on": "id"}}, RecipeError, "join needs table"),
        ({"table": "questions", "join": {"table": "answers"}}, RecipeError, "write join: "),
        ({"table": "questions", "join": {"table": "questions", "on": "id"}}, RecipeError, "joined to itself"),
        ({"table": "questions", "join": {"table": "answer", "on": "id"}}, DataError, "no table 'answer'; did you mean"),
        ({"table": "questions", "join": {"table": "answers", "on": {"i": "id"}}}, DataError, "'questions' has no column 'i'"),
        ({"table": "questions", "where": "titel = 'x'"}, DataError, "where: table 'questions' has no column 'titel'; did you"),
        ({"table": "questions", "columns": ["titel"]}, DataError, "table 'questions' has no column 'titel'; did you mean"),
    ],
)
def test_options_that_do_not_fit_are_errors(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read(tmp_path, DUMP, **options)


def test_database_file_is_read_and_nothing_beside_it_written(tmp_path: Path) -> None:
    path = database(
        tmp_path,
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT, b BLOB, c REAL, d)",
        "INSERT INTO t VALUES (5, 'it''s', x'00ff', 1.5, 9223372036854775807), (7, NULL, '', 9e999, -9e999)",
        "CREATE INDEX i ON t (a)",
        "CREATE VIEW v AS SELECT * FROM t",
        'CREATE TABLE "odd ""name" (k TEXT PRIMARY KEY) WITHOUT ROWID',
        "INSERT INTO \"odd \"\"name\" VALUES ('b'), ('a')",
    )
    before = path.read_bytes()
    rows = list(sql(InputFile(path, path.name)))
    assert rows == [
        Record("t/0", {"id": 5, "a": "it's", "b": "00ff", "c": 1.5, "d": 9223372036854775807}),
        Record("t/1", {"id": 7, "a": None, "b": "", "c": "inf", "d": "-inf"}),
        Record('odd "name/0', {"k": "a"}),
        Record('odd "name/1', {"k": "b"}),
    ]
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["a.sqlite"]
    assert sniff(InputFile(path, path.name)) == {"dialect": "sqlite database"}
    kept = list(sql(InputFile(path, path.name), table="t", columns=["a"], where="id > 5"))
    assert kept == [Record("t/1", {"a": None})]


def test_database_with_broken_text_or_pages_loses_no_row_unseen(tmp_path: Path) -> None:
    path = database(tmp_path, "CREATE TABLE t (a TEXT)", "INSERT INTO t VALUES ('x'), (CAST(x'ff41' AS TEXT))")
    first, second = sql(InputFile(path, path.name))
    assert isinstance(first, Record) and isinstance(second, Bad)
    assert (second.key, second.reason, second.raw) == ("t/1", "encoding", b"\xffA")
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 4096)
    with pytest.raises(DataError, match=r"a\.sqlite: table 't' cannot be read: "):
        list(sql(InputFile(path, path.name)))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"a\.sqlite: .*cannot be read"):
        list(sql(InputFile(path, path.name)))


def test_database_packed_is_unpacked_first_and_one_with_a_log_is_refused(tmp_path: Path) -> None:
    path = database(tmp_path, "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")
    packed = tmp_path / "b.sqlite.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert list(sql(InputFile(packed, packed.name))) == [Record("t/0", {"a": 1})]
    path.with_name("a.sqlite-wal").write_bytes(b"changes")
    with pytest.raises(DataError, match=r"a\.sqlite-wal holds changes that are not in the file"):
        list(sql(InputFile(path, path.name)))
