"""The SQL ingestor: the rows of dumps come back exactly in three dialects, and nothing is guessed or executed."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.errors import DataError
from sftdata.ingestors import _sql_rows, _sql_text
from sftdata.ingestors.sql import sql
from sftdata.records import Bad, Record
from sftdata.schemas import QUARANTINE_REASONS
from sftdata.sources import InputFile

NUM_CASES = int(os.environ.get("SFTDATA_FUZZ_TABLES", "150"))

MYSQL_HEAD = "-- MySQL dump 10.13  Distrib 8.0.36\n/*!40101 SET NAMES utf8mb4 */;\n"
POSTGRESQL_HEAD = "--\n-- PostgreSQL database dump\n--\n\\restrict Ab1\nSET standard_conforming_strings = on;\n"
SQLITE_HEAD = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n"


def read(folder: Path, dump: str | bytes, **options: Any) -> list[Record | Bad]:
    """Ingest `dump` as a file and check what holds of every file: keys count from 0 by table, reasons are known."""
    path = folder / "a.sql"
    path.write_bytes(dump if isinstance(dump, bytes) else dump.encode("utf-8", "surrogatepass"))
    rows = list(sql(InputFile(path, path.name), **options))
    numbers: dict[str, int] = {}
    for row in rows:
        table, _, number = row.key.rpartition("/")
        assert int(number) == numbers.setdefault(table, 0)
        numbers[table] += 1
    assert all(row.reason in QUARANTINE_REASONS for row in rows if isinstance(row, Bad))
    return rows


def values(rows: list[Record | Bad]) -> list[list[Any] | str]:
    """Return the values of records, and the reasons of bad rows."""
    return [list(row.fields.values()) if isinstance(row, Record) else row.reason for row in rows]


def test_mysqldump_is_read(tmp_path: Path) -> None:
    dump = (
        MYSQL_HEAD
        + r"""
DROP TABLE IF EXISTS `chats`;
CREATE TABLE `chats` (
  `id` int unsigned NOT NULL AUTO_INCREMENT COMMENT 'it''s, (a) \' key',
  `what, why` text COLLATE utf8mb4_bin,
  `score` decimal(10,2) DEFAULT '0.00',
  `raw` blob,
  PRIMARY KEY (`id`),
  UNIQUE KEY `u` (`score`),
  KEY `k` (`id`,`score`),
  CONSTRAINT `f` FOREIGN KEY (`id`) REFERENCES `x` (`id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
LOCK TABLES `chats` WRITE;
/*!40000 ALTER TABLE `chats` DISABLE KEYS */;
INSERT INTO `chats` VALUES (1,'it''s \'q\' \\ \n\t\0\Z\%),(2,\'x\',1);',1.10,_binary 'a\0é'),(2,NULL,-5e3,0xDEAD),
(3,"dou\"ble",12345678901234567890.123456789,X'00');
REPLACE INTO `chats` (`raw`,`id`) VALUES (_utf8mb4 'x',4);
/*!40000 ALTER TABLE `chats` ENABLE KEYS */;
UNLOCK TABLES;
DELIMITER ;;
/*!50003 CREATE*/ /*!50017 DEFINER=`r`@`%`*/ /*!50003 TRIGGER t BEFORE INSERT ON chats FOR EACH ROW BEGIN
INSERT INTO log VALUES (new.id); END */;;
DELIMITER ;
"""
    )
    rows = read(tmp_path, dump, table="chats")
    assert [row.key for row in rows] == [f"chats/{number}" for number in range(4)]
    assert rows[0] == Record(
        "chats/0", {"id": 1, "what, why": "it's 'q' \\ \n\t\0\x1a\\%),(2,'x',1);", "score": 1.1, "raw": "6100c3a9"}
    )
    assert values(rows)[1:] == [
        [2, None, -5000.0, "dead"],
        [3, 'dou"ble', "12345678901234567890.123456789", "00"],
        ["x", 4],
    ]


def test_pg_dump_is_read(tmp_path: Path) -> None:
    dump = (
        POSTGRESQL_HEAD
        + r"""
SELECT pg_catalog.set_config('search_path', '', false);
CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $_$ BEGIN INSERT INTO x VALUES (1); END; $_$;
CREATE TABLE public.posts (
    id integer DEFAULT 1 NOT NULL,
    body text DEFAULT 'a\',
    score numeric(5,2),
    ok boolean,
    "Odd ""name" character varying(20),
    CONSTRAINT c CHECK ((id > 0))
);
COPY public.posts (id, body, score, ok, "Odd ""name") FROM stdin;
1	a\tb\\c\nd	1.50	t	\N
2	\\N ''	NaN	f	\303\251\x41
\.

INSERT INTO public.posts VALUES (3, 'back\', 1, true, E'x\n\'y'' \u4f60'), (4, $$do'l;lar$$, 2, false, 'a' || 'b'),
 (5, '{1,2}'::integer[], (3.0)::numeric, NULL, /* why */ 'x'::character varying(20));
INSERT INTO archive.posts (id) OVERRIDING SYSTEM VALUE VALUES (1) ON CONFLICT DO NOTHING;
"""
    )
    rows = read(tmp_path, dump)
    assert isinstance(rows[0], Record) and list(rows[0].fields) == ["id", "body", "score", "ok", 'Odd "name']
    assert values(rows) == [
        [1, "a\tb\\c\nd", 1.5, True, None],
        [2, "\\N ''", "NaN", False, "éA"],
        [3, "back\\", 1, True, "x\n'y' 你"],
        [4, "do'l;lar", 2, False, "ab"],
        [5, "{1,2}", 3.0, None, "x"],
        [1],
    ]
    assert rows[-1].key == "archive.posts/0"


def test_sqlite_dump_is_read(tmp_path: Path) -> None:
    dump = (
        SQLITE_HEAD
        + r"""
CREATE TABLE q(id INTEGER PRIMARY KEY AUTOINCREMENT, t TEXT, key TEXT);
INSERT INTO q VALUES(1,replace(replace('a\nb\rc','\n',char(10)),'\r',char(13)),X'0aFF');
INSERT INTO "q" VALUES(2,unistr('\u4f60\uD83D\uDE00\\x'),9e999);
INSERT INTO q VALUES(3,'it''s -- no; /* c */',-1.5);
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('q',3);
CREATE TRIGGER tr AFTER INSERT ON q BEGIN INSERT INTO log VALUES(new.id); SELECT 1; END;
COMMIT;
"""
    )
    assert values(read(tmp_path, dump)) == [[1, "a\nb\rc", "0aff"], [2, "你😀\\x", "9e999"], [3, "it's -- no; /* c */", -1.5]]
    assert values(read(tmp_path, dump, table="sqlite_sequence", columns=["name", "seq"])) == [["q", 3]]


def test_sqlite_dump_agrees_with_the_database(tmp_path: Path) -> None:
    table = [(1, "it's", None, 1.5), (2, "a\\'b);\n--", 'x"y', -7.25), (3, "你\t", "", 1e300)]
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE t (id INTEGER, a TEXT, b TEXT, c REAL)")
        database.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", table)
        dump = "\n".join(database.iterdump())
    database.close()
    assert values(read(tmp_path, dump)) == [list(row) for row in table]


@pytest.mark.parametrize(
    ("dump", "wanted"),
    [
        (MYSQL_HEAD + r"INSERT INTO t (a) VALUES ('it\'s');", "it's"),
        (r"INSERT INTO `t` (a) VALUES ('x\\');", "x\\"),
        (r"INSERT INTO t (a) VALUES ('it\'s');", "it's"),
        (POSTGRESQL_HEAD + r"INSERT INTO t (a) VALUES ('x\');", "x\\"),
        (SQLITE_HEAD + r"INSERT INTO t (a) VALUES ('x\');", "x\\"),
        (r"INSERT INTO t (a) VALUES ('x\');", "x\\"),
    ],
)
def test_sql_backslash_means_what_the_dialect_says(tmp_path: Path, dump: str, wanted: str) -> None:
    assert values(read(tmp_path, dump)) == [[wanted]]


def test_sql_dialect_can_be_named(tmp_path: Path) -> None:
    assert values(read(tmp_path, r"INSERT INTO t (a) VALUES ('a\nb');", dialect="mysql")) == [["a\nb"]]
    assert values(read(tmp_path, r"INSERT INTO t (a) VALUES ('a\nb');", dialect="sqlite")) == [["a\\nb"]]


def test_sql_columns_select_or_name(tmp_path: Path) -> None:
    named = "INSERT INTO t (a, b, c) VALUES (1, 2, 3);"
    assert read(tmp_path, named, columns=["c", "a"]) == [Record("t/0", {"c": 3, "a": 1})]
    assert read(tmp_path, "INSERT INTO t VALUES (1, 2);", columns=["x", "y"]) == [Record("t/0", {"x": 1, "y": 2})]


@pytest.mark.parametrize(
    ("dump", "options", "message"),
    [
        ("", {}, "is empty"),
        ("INSERT INTO posts (a) VALUES (1);", {"table": "post"}, "no table 'post'; did you mean 'posts'"),
        ("INSERT INTO t (body) VALUES (1);", {"columns": ["bdy"]}, "table 't' has no column 'bdy'; did you mean 'body'"),
        ("\nINSERT INTO t VALUES (1);", {}, "line 2: neither CREATE TABLE nor INSERT names the columns of 't'; .* columns: "),
    ],
)
def test_sql_that_does_not_fit_the_options_is_an_error(
    tmp_path: Path, dump: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, dump, **options)


def test_sql_quarantines_a_row_of_another_width_alone(tmp_path: Path) -> None:
    rows = read(tmp_path, "INSERT INTO t (a, b) VALUES (1, 2),\n(3),\n(4, 5);")
    assert values(rows) == [[1, 2], "sql_columns", [4, 5]]
    assert rows[1] == Bad("t/1", "sql_columns", "line 2: 1 values, the table has 2 columns", b"(3)")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t (a) VALUES (evil('x'));",
        "INSERT INTO t (a) VALUES (1) nonsense;",
        "INSERT INTO t (a) VALUES (1 2);",
        "INSERT INTO t (a) VALUES (DEFAULT);",
        "INSERT INTO t (a) VALUES (char('x'));",
        "INSERT INTO t (a) VALUES (" + "(" * 40 + "1" + ")" * 40 + ");",
        "INSERT INTO t (a) SELECT 1;",
        "EVIL STATEMENT;",
    ],
)
def test_sql_statement_that_cannot_be_read_is_bad_and_reading_goes_on(tmp_path: Path, statement: str) -> None:
    rows = read(tmp_path, f"INSERT INTO t (a) VALUES (1);\n{statement}\nINSERT INTO t (a) VALUES (2);\n")
    (bad,) = [row for row in rows if isinstance(row, Bad)]
    assert bad.reason == "sql_syntax" and bad.place.startswith("line 2: ")
    records = values([row for row in rows if isinstance(row, Record)])
    assert records[0] == [1] and records[-1] == [2]


def test_sql_that_ends_inside_a_statement_is_named_at_every_cut(tmp_path: Path) -> None:
    dump = SQLITE_HEAD + "INSERT INTO t (a, b) VALUES (1, 'x;\n'), (2, 'y');\n"
    start = dump.index("INSERT")
    for cut in range(start + 1, len(dump) - 1):
        rows = read(tmp_path, dump[:cut])
        assert rows and isinstance(rows[-1], Bad) and rows[-1].reason in ("sql_truncated", "sql_syntax"), dump[:cut]
    assert values(read(tmp_path, "INSERT INTO t (a) VALUES (1); /* INSERT")) == [[1], "sql_truncated"]
    copy = POSTGRESQL_HEAD + "COPY t (a) FROM stdin;\n1\n2\n"
    assert values(read(tmp_path, copy)) == [["1"], ["2"], "sql_truncated"]
    assert values(read(tmp_path, copy + "3")) == [["1"], ["2"], "sql_truncated"]


def test_sql_rows_with_undecodable_text_are_bad_and_binary_ones_are_not(tmp_path: Path) -> None:
    dump = MYSQL_HEAD.encode() + b"INSERT INTO t (a) VALUES ('\xff'),(_binary '\xff\\0'),('b');"
    rows = read(tmp_path, dump)
    assert values(rows) == ["encoding", ["ff00"], ["b"]]
    assert isinstance(rows[0], Bad) and rows[0].raw == b"('\xff')"


def test_sql_reads_other_encodings(tmp_path: Path) -> None:
    dump = "INSERT INTO t (a) VALUES ('你好\\');"
    assert values(read(tmp_path, dump.encode("gb18030"), encoding="gbk")) == [["你好\\"]]
    assert values(read(tmp_path, dump.encode("utf-16"))) == [["你好\\"]]


def test_sql_row_over_the_limit_is_bad_and_reading_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (_sql_text, _sql_rows):
        monkeypatch.setattr(module, "MAX_CHARS", 2 << 20)
    long = "INSERT INTO t (a) VALUES ('" + "x" * (6 << 20) + "');\n"
    rows = read(tmp_path, "INSERT INTO t (a) VALUES (1);\n" + long + "INSERT INTO t (a) VALUES (2);\n")
    assert values(rows) == [[1], "too_large", [2]]


def test_sql_rows_are_the_same_wherever_the_text_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sftdata.ingestors._sql_dump.HEAD_CHARS", 256)
    row = r"(1,'it\'s ''q'' ),(\\',-1.5e3,NULL),(2,/*x*/replace('bx', 'x', 'c'),0xAB,_binary 'z')"
    dump = MYSQL_HEAD + "".join(f"INSERT INTO `t` (`a`,`b`,`c`,`d`) VALUES {row},{row};\n" for _ in range(40))
    wanted = values(read(tmp_path, dump))
    assert len(wanted) == 160 and all(isinstance(row, list) for row in wanted)
    for block in (1, 7, 64):
        monkeypatch.setattr("sftdata.ingestors._encoding.BLOCK", block)
        assert values(read(tmp_path, dump)) == wanted


def test_sql_values_of_one_table_are_numbered_apart(tmp_path: Path) -> None:
    dump = "INSERT INTO a (x) VALUES (1);\nINSERT INTO b (x) VALUES (2);\nINSERT INTO a (x) VALUES (3);\n"
    assert [row.key for row in read(tmp_path, dump)] == ["a/0", "b/0", "a/1"]
    assert [row.key for row in read(tmp_path, dump, table="b")] == ["b/0"]


TEXT = st.text(st.sampled_from(list("ab'\"\\;,()$E-/*#\n\r\t\0N.你😀\x1a")), max_size=12)
TABLES = st.lists(st.tuples(st.none() | TEXT, st.none() | st.integers(), TEXT), min_size=1, max_size=6)


def mysql_dump(table: list[tuple[Any, ...]]) -> str:
    escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\0": "\\0", "\x1a": "\\Z", '"': '\\"'}

    def literal(value: Any) -> str:
        return (
            f"'{''.join(escapes.get(c, c) for c in value)}'"
            if isinstance(value, str)
            else "NULL"
            if value is None
            else str(value)
        )

    rows = ",".join(f"({','.join(map(literal, row))})" for row in table)
    return f"{MYSQL_HEAD}CREATE TABLE `t` (`a` text, `b` int, `c` text) ENGINE=InnoDB;\nINSERT INTO `t` VALUES {rows};\n"


def copy_dump(table: list[tuple[Any, ...]]) -> str:
    escapes = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    lines = "".join(
        "\t".join("\\N" if value is None else "".join(escapes.get(c, c) for c in str(value)) for value in row) + "\n"
        for row in table
    )
    return (
        f"{POSTGRESQL_HEAD}CREATE TABLE public.t (a text, b bigint, c text);\nCOPY public.t (a, b, c) FROM stdin;\n{lines}\\.\n"
    )


def standard_dump(head: str, table: list[tuple[Any, ...]]) -> str:
    def literal(value: Any) -> str:
        return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else "NULL" if value is None else str(value)

    rows = "".join(f"INSERT INTO t VALUES({','.join(map(literal, row))});\n" for row in table)
    return f"{head}CREATE TABLE t(a TEXT, b INTEGER, c TEXT);\n{rows}"


@settings(max_examples=NUM_CASES, deadline=None)
@given(table=TABLES)
def test_sql_tables_come_back_from_every_dialect(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[Any, ...]]
) -> None:
    wanted = [list(row) for row in table]
    for dump in (mysql_dump(table), copy_dump(table), standard_dump(POSTGRESQL_HEAD, table), standard_dump(SQLITE_HEAD, table)):
        assert values(read(tmp_path_factory.getbasetemp(), dump)) == wanted, json.dumps(dump)


@settings(max_examples=300, deadline=None)
@given(
    body=st.lists(
        st.sampled_from([*"'\"\\;,()$-/*#\n1xN|:", "INSERT INTO t (a) VALUES ", "COPY t (a) FROM stdin;\n", "E'"]), max_size=30
    ),
    dialect=st.sampled_from(["mysql", "postgresql", "sqlite"]),
)
def test_sql_never_fails_on_noise(tmp_path_factory: pytest.TempPathFactory, body: list[str], dialect: Any) -> None:
    dump = f"INSERT INTO t (a) VALUES (0);\n{''.join(body)}"
    rows = read(tmp_path_factory.getbasetemp(), dump, dialect=dialect)
    assert rows[0] == Record("t/0", {"a": 0})


def test_sql_binary_columns_become_digits_however_they_are_written(tmp_path: Path) -> None:
    create = "CREATE TABLE `t` (`a` blob, `b` text) ENGINE=InnoDB;\n"
    rows = b"INSERT INTO `t` VALUES ('\\0\xff','x'),(_binary 'a','y'),(0x0AfF,'z'),(NULL,'\\'');\n"
    found = values(read(tmp_path, (MYSQL_HEAD + create).encode() + rows))
    assert found == [["00ff", "x"], ["61", "y"], ["0aff", "z"], [None, "'"]]
    posted = POSTGRESQL_HEAD + "CREATE TABLE t (a bytea, b text);\n"
    assert values(read(tmp_path, posted + "INSERT INTO t VALUES ('\\x00FF', '\\x1');\n")) == [["00ff", "\\x1"]]
    assert values(read(tmp_path, posted + "COPY t (a, b) FROM stdin;\n\\\\x00ff\t\\\\x1\n\\.\n")) == [["00ff", "\\x1"]]
    assert values(read(tmp_path, SQLITE_HEAD + "CREATE TABLE t (a blob);\nINSERT INTO t VALUES('text');\n")) == [["text"]]


def test_mariadb_sandbox_line_is_a_comment(tmp_path: Path) -> None:
    dump = "/*M!999999\\- enable the sandbox mode */ \n-- MariaDB dump 10.19\nINSERT INTO `t` (`a`) VALUES (1);\n"
    assert values(read(tmp_path, dump)) == [[1]]


@pytest.mark.parametrize(
    "value", ["E'\\uD800'", "E'\\377'", "E'\\UFFFFFFFF'", "unistr('\\D800')", "char(55296)", "COPY \\377"], ids=str
)
def test_sql_text_that_is_no_text_makes_its_row_bad(tmp_path: Path, value: str) -> None:
    rows = f"INSERT INTO t (a) VALUES (1), ({value}), (2);\n"
    if value.startswith("COPY "):
        rows = f"COPY t (a) FROM stdin;\n1\n{value[5:]}\n2\n\\.\n"
    found = read(tmp_path, POSTGRESQL_HEAD + rows)
    assert [row.reason if isinstance(row, Bad) else "" for row in found] == ["", "encoding", ""]


def test_sql_names_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    created = b"CREATE TABLE `a\xff` (`\xe4` text);\nINSERT INTO `a\xff` VALUES (0x78);\n"
    dump = MYSQL_HEAD.encode() + created + b"INSERT INTO `\xfe` (`\xfd`) VALUES (1);\n"
    rows = read(tmp_path, dump)
    assert rows == [Record("a\\xff/0", {"\\xe4": "78"}), Record("\\xfe/0", {"\\xfd": 1})]


def test_sql_halves_of_a_character_belong_together(tmp_path: Path) -> None:
    assert values(read(tmp_path, POSTGRESQL_HEAD + "INSERT INTO t (a) VALUES (E'\\uD83D\\uDE00');\n")) == [["😀"]]


def test_sql_numbers_past_all_measure_stay_text_and_nesting_has_an_end(tmp_path: Path) -> None:
    long = ("1e-99999999999999999999", "0e99999999999999999999999", "-.5e-400")
    statement = f"INSERT INTO t (a, b, c) VALUES ({','.join(long)});\n"
    assert values(read(tmp_path, POSTGRESQL_HEAD + statement)) == [list(long)]
    for deep in ("CAST(" * 5000, "(" * 5000, "char(" * 5000):
        [row] = read(tmp_path, f"INSERT INTO t (a) VALUES ({deep}1);\n")
        assert isinstance(row, Bad) and "nested deeper than 32" in row.place
