"""Live databases: real servers and SQLite by URL, read once in a transaction that cannot write; and their own dumps."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from database_servers import mariadb, postgresql, program, why_missing

from sftdata.errors import DataError, RecipeError
from sftdata.ingesting import ingest
from sftdata.ingestors import _sql_live
from sftdata.ingestors.sql import fetch, sql
from sftdata.records import Bad, Record
from sftdata.sources import InputFile

pytest.importorskip("sqlalchemy", reason="the extra sql is not installed")

ROWS = [
    (1, "it's \\ \"q\"\n\t\0".replace("\0", ""), 1.5, True, None, b"\x00\xff"),
    (2, "你好 😀", None, False, "2024-01-02 03:04:05", b""),
    (10, "", -2e300, None, "1999-12-31 00:00:00", None),
]
FIELDS = [
    {"id": 1, "body": "it's \\ \"q\"\n\t", "score": 1.5, "ok": True, "day": None, "raw": "00ff"},
    {"id": 2, "body": "你好 😀", "score": None, "ok": False, "day": "2024-01-02 03:04:05", "raw": ""},
    {"id": 10, "body": "", "score": -2e300, "ok": None, "day": "1999-12-31 00:00:00", "raw": None},
]


def read(address: str, folder: Path, **options: Any) -> list[Record | Bad]:
    """Read a live database as a build does: a copy first, then its rows."""
    target = folder / f"copy-{len(list(folder.iterdir()))}"
    target.mkdir()
    fetch(address, target, **options)
    [copied] = target.iterdir()
    return list(sql(InputFile(copied, copied.name), **options))


def fields(rows: list[Record | Bad]) -> list[dict[str, Any]]:
    assert all(isinstance(row, Record) for row in rows)
    return [row.fields for row in rows if isinstance(row, Record)]


@pytest.fixture(scope="module")
def postgresql_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if why := why_missing("initdb", "postgres", "pg_dump"):
        pytest.skip(f"PostgreSQL: {why}")
    import psycopg

    with postgresql(tmp_path_factory.mktemp("postgresql")) as url:
        with psycopg.connect(url) as connection:
            connection.execute(
                "CREATE TABLE posts (id int, body text, score float8, ok boolean, day timestamp, raw bytea, PRIMARY KEY (id))"
            )
            connection.execute("CREATE SEQUENCE counter")
            connection.execute("CREATE TABLE keys (a text, b int, PRIMARY KEY (a, b))")
            connection.execute("CREATE TABLE bare (n numeric(30, 20), j jsonb, list int[])")
            connection.execute("INSERT INTO bare VALUES (1.5, '{\"a\": 1}', '{1,2}')")
            connection.execute("INSERT INTO bare VALUES (12345678.12345678901234567890, NULL, NULL)")
            for row in ROWS:
                connection.execute("INSERT INTO posts VALUES (%s, %s, %s, %s, %s, %s)", row)
            connection.execute("INSERT INTO keys SELECT chr(97 + n % 3), n FROM generate_series(1, 25) n")
        yield url


@pytest.fixture(scope="module")
def mariadb_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if why := why_missing("mariadbd", "mariadb-install-db", "mariadb-dump"):
        pytest.skip(f"MariaDB: {why}")
    import pymysql

    with mariadb(tmp_path_factory.mktemp("mariadb")) as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        with pymysql.connect(host="127.0.0.1", port=port, user="root", database="forum", autocommit=True) as connection:
            cursor = connection.cursor()
            cursor.execute(
                "CREATE TABLE posts (id int PRIMARY KEY, body text, score double, ok tinyint(1), day datetime, raw blob)"
            )
            cursor.executemany("INSERT INTO posts VALUES (%s, %s, %s, %s, %s, %s)", ROWS)
            cursor.execute("CREATE TABLE `keys` (a varchar(5), b int, PRIMARY KEY (a, b))")
            cursor.executemany("INSERT INTO `keys` VALUES (%s, %s)", [("abc"[n % 3], n) for n in range(1, 26)])
        yield url


def test_postgresql_rows_come_back(postgresql_url: str, tmp_path: Path) -> None:
    assert fields(read(postgresql_url, tmp_path, table="posts")) == FIELDS
    assert fields(read(postgresql_url, tmp_path, table="bare")) == [
        {"n": 1.5, "j": '{"a": 1}', "list": "[1, 2]"},
        {"n": "12345678.12345678901234567890", "j": None, "list": None},
    ]
    assert {row.key.partition("/")[0] for row in read(postgresql_url, tmp_path)} == {"bare", "keys", "posts"}


def test_mariadb_rows_come_back(mariadb_url: str, tmp_path: Path) -> None:
    numbers = {True: 1, False: 0, None: None}
    wanted = [{**row, "ok": numbers[row["ok"]]} for row in FIELDS]
    assert fields(read(mariadb_url, tmp_path, table="posts")) == wanted


@pytest.mark.parametrize("server", ["postgresql_url", "mariadb_url"])
def test_key_ranges_lose_and_double_no_row(
    server: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = request.getfixturevalue(server)
    wanted = sorted(("abc"[n % 3], n) for n in range(1, 26))
    for size in (1, 4, 25, 26):
        monkeypatch.setattr(_sql_live, "_PAGE_ROWS", size)
        assert [tuple(row.values()) for row in fields(read(url, tmp_path, table="keys"))] == wanted


@pytest.mark.parametrize("server", ["postgresql_url", "mariadb_url"])
def test_where_columns_join_and_query_are_heeded(server: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = request.getfixturevalue(server)
    rows = read(url, tmp_path, table="posts", where="id in (1, 10) and body != ''", columns=["body"])
    assert fields(rows) == [{"body": FIELDS[0]["body"]}]
    pairs = read(url, tmp_path, table="posts", join={"table": "keys", "on": {"id": "b"}}, columns=["id", "keys.a"])
    assert sorted(tuple(row.values()) for row in fields(pairs)) == [(1, "b"), (2, "c"), (10, "b")]
    asked = read(url, tmp_path, query="SELECT count(*) AS n, max(id) AS most FROM posts")
    assert asked == [Record("query/0", {"n": 3, "most": 10})]


@pytest.mark.parametrize("server", ["postgresql_url", "mariadb_url"])
def test_server_is_never_written_to_and_its_refusals_are_one_line(
    server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(server)
    writing = "SELECT setval('counter', 5)" if server == "postgresql_url" else "DELETE FROM posts"
    with pytest.raises((DataError, RecipeError), match=r"cannot be read: .*(read-only|READ ONLY)|only reads"):
        read(url, tmp_path, query=writing)
    with pytest.raises(DataError, match="no table 'post'; did you mean 'posts'"):
        read(url, tmp_path, table="post")
    assert len(read(url, tmp_path, table="posts")) == 3


@pytest.mark.parametrize("inserts", [False, True], ids=["copy", "inserts"])
def test_pg_dump_gives_what_the_server_gives(postgresql_url: str, tmp_path: Path, inserts: bool) -> None:
    dump = tmp_path / "posts.sql"
    flags = ["--inserts"] if inserts else []
    subprocess.run(
        [program("pg_dump") or "", "-d", postgresql_url, "-t", "posts", *flags, "-f", dump], check=True, capture_output=True
    )
    assert fields(list(sql(InputFile(dump, dump.name)))) == FIELDS


def test_mariadb_dump_gives_what_the_server_gives(mariadb_url: str, tmp_path: Path) -> None:
    port = mariadb_url.rpartition(":")[2].partition("/")[0]
    dump = tmp_path / "posts.sql"
    command = [program("mariadb-dump") or "", "--no-defaults", "-h", "127.0.0.1", "-P", port, "-u", "root", "--skip-ssl"]
    dump.write_bytes(subprocess.run([*command, "forum", "posts"], check=True, capture_output=True).stdout)
    rows = list(sql(InputFile(dump, dump.name)))
    assert [(row.key, row.fields) for row in rows if isinstance(row, Record)] == [
        (row.key, row.fields) for row in read(mariadb_url, tmp_path, table="posts") if isinstance(row, Record)
    ]


def test_sqlite_by_url_goes_through_ingest(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "forum.db")) as connection:
        connection.execute("CREATE TABLE posts (id INTEGER PRIMARY KEY, body TEXT)")
        connection.executemany("INSERT INTO posts VALUES (?, ?)", [(1, "a"), (2, "b")])
        connection.commit()
    address = f"sqlite:///{tmp_path / 'forum.db'}"
    result = ingest(address, format="sql", out=tmp_path / "out", options={"table": "posts"})
    assert result.manifest["counts"]["prepare"]["kept"] == 2
    assert [entry["name"] for entry in result.manifest["inputs"]] == ["forum.sqlite"]
    again = ingest(address, format="sql", out=tmp_path / "out", options={"table": "posts"})
    assert again.manifest == result.manifest


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("postgresql://u:secret@h/db", r"postgresql://u:\*\*\*@h/db: write no password here; name a variable"),
        ("postgresql://u:${SFTDATA_NO_SUCH}@h/db", "the variable SFTDATA_NO_SUCH is not set"),
        ("postgresql://u:secret@h:port/db", r"postgresql://u:\*\*\*@h:port/db: cannot be read as a URL"),
        ("postgresql+pg8000://h/db", r"its driver is not installed \(No module named 'pg8000'\); leave out what"),
        ("mariadb+nothing://h/db", "its driver is not installed"),
        ("sqlite://", "sqlite://: no such file; write sqlite:///relative/path.db"),
        ("sqlite:///nowhere.db", "no such file"),
        ("oracle://u@h/db", "no such kind of database; known: mariadb, mysql, postgresql, sqlite"),
    ],
)
def test_addresses_that_cannot_be_used_are_errors(tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read(address, tmp_path, table="posts")


@pytest.mark.parametrize("server", ["postgresql_url", "mariadb_url"])
def test_wrong_accounts_databases_and_queries_are_one_line(
    server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(server)
    host = url.partition("@")[2].rpartition("/")[0]
    kind = url.partition(":")[0]
    for address in (f"{kind}://nobody@{host}/{url.rpartition('/')[2]}", f"{url}_not", f"{kind}://root@127.0.0.1:1/x"):
        with pytest.raises(DataError, match=r"^[^\n]*: cannot be read: [^\n]*$"):
            read(address, tmp_path, table="posts")
    for query, error in ((" ; ", RecipeError), ("SELECT 1 AS a, 2 AS a", RecipeError), ("SELECT 1; SELECT 2", DataError)):
        with pytest.raises(error, match=r"^[^\n]*$"):
            read(url, tmp_path, query=query)
    assert fields(read(url, tmp_path, query="SELECT ':x %s' AS a;")) == [{"a": ":x %s"}]


def test_postgresql_dates_that_python_has_not_and_tables_named_with_dots_come_back(postgresql_url: str, tmp_path: Path) -> None:
    import psycopg

    with psycopg.connect(postgresql_url) as connection:
        connection.execute('CREATE TABLE "odd.name" (d date PRIMARY KEY, "%(x)s" int)')
        connection.execute("INSERT INTO \"odd.name\" VALUES ('infinity', 1), ('0044-03-15 BC', 2), ('2020-01-01', 3)")
    rows = fields(read(postgresql_url, tmp_path, table="odd.name"))
    assert [row["d"] for row in rows] == ["0044-03-15 BC", "2020-01-01", "infinity"]
    with psycopg.connect(postgresql_url) as connection:
        connection.execute('DROP TABLE "odd.name"')


def test_server_that_goes_away_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if why := why_missing("mariadbd", "mariadb-install-db"):
        pytest.skip(f"MariaDB: {why}")
    import pymysql

    (tmp_path / "server").mkdir()
    with mariadb(tmp_path / "server") as url:
        port = int(url.rpartition(":")[2].partition("/")[0])
        connect = {"host": "127.0.0.1", "port": port, "user": "root", "database": "forum", "autocommit": True}
        with pymysql.connect(**connect) as connection:
            connection.cursor().execute("CREATE TABLE t AS SELECT seq AS a, repeat('x', 1000) AS b FROM seq_1_to_50000")
        stored, num = _sql_live._stored, 0

        def slowly(value: Any) -> Any:
            nonlocal num
            num += 1
            if num == 5000:
                with pymysql.connect(**connect) as other, other.cursor() as cursor:
                    cursor.execute("SHUTDOWN")
            return stored(value)

        monkeypatch.setattr(_sql_live, "_stored", slowly)
        with pytest.raises(DataError, match=r"cannot be read: [^\n]*Lost connection"):
            ingest(url, format="sql", out=tmp_path / "out", work_dir=tmp_path / "work", options={"table": "t"})
    assert num >= 5000 and not (tmp_path / "out").exists() and list((tmp_path / "work" / "remote").iterdir()) == []


def test_query_needs_a_live_database_and_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "a.sql").write_text("INSERT INTO t (a) VALUES (1);")
    with pytest.raises(RecipeError, match="only a live database answers one"):
        list(sql(InputFile(tmp_path / "a.sql", "a.sql"), query="SELECT 1"))
    with pytest.raises(RecipeError, match="query: stands alone"):
        read("sqlite:///x", tmp_path, query="SELECT 1", table="t")


TWO_STATEMENTS = "with t as (select 1 a) select a from t; attach '{0}' as z"


@pytest.mark.parametrize("query", ["vacuum into '{0}'", "attach '{0}' as z", "pragma user_version", TWO_STATEMENTS])
def test_queries_of_a_sqlite_file_write_nothing_anywhere(tmp_path: Path, query: str) -> None:
    with closing(sqlite3.connect(tmp_path / "l.db")) as database:
        database.execute("create table t(a)")
        database.commit()
    written = tmp_path / "written.db"
    with pytest.raises((DataError, RecipeError)) as caught:
        read(f"sqlite:///{tmp_path}/l.db", tmp_path, query=query.format(written))
    assert "\n" not in str(caught.value) and not written.exists()


def test_text_of_a_sqlite_file_that_is_not_utf_8_is_one_line_with_a_cure(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "l.db")) as database:
        database.execute("create table t(a text)")
        database.execute("insert into t values (cast(x'ff41' as text))")
        database.commit()
    with pytest.raises(DataError, match=r"a text that is not UTF-8: b'\\xffA'; given as a path, only its row is bad"):
        read(f"sqlite:///{tmp_path}/l.db", tmp_path)
