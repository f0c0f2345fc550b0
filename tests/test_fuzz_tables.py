"""Seeded hostile files of every table format: nothing crashes or hangs, no row is lost, fast and slow ways agree.

    SFTDATA_FUZZ_FILES=20000 python -m pytest tests/test_fuzz_tables.py      (make fuzz)
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sftdata.errors import DataError
from sftdata.ingestors import _csv_rows, _encoding, _sql_rows
from sftdata.ingestors.arrow import arrow
from sftdata.ingestors.csv import csv_
from sftdata.ingestors.jsonl import jsonl
from sftdata.ingestors.parquet import parquet
from sftdata.ingestors.sql import sql
from sftdata.records import Bad, Record
from sftdata.schemas import QUARANTINE_REASONS
from sftdata.sources import InputFile

NUM_FILES = int(os.environ.get("SFTDATA_FUZZ_FILES", "300"))

JUNK = [b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x81\x30", b"\xa0", b"\xe2\x80\xa8", b"\xc2\x85", b"'", b'"']
JUNK += [b"\\", b"\r"]
BLOCKS = [3, 64, 1 << 17]
"""Bytes that are read at a time: what lies at a border must not matter."""


def mutated(draw: random.Random, data: bytes, pieces: Sequence[bytes]) -> bytes:
    """Return the data with a few places removed, doubled, overwritten or filled with what the format finds hard."""
    raw = bytearray(data)
    for _ in range(draw.choice((0, 1, 1, 2, 5))):
        place, length = draw.randint(0, len(raw)), draw.choice((0, 1, 1, 3, 20))
        found = draw.choice((b"", raw[place : place + length] * 2, draw.choice(pieces), draw.choice(JUNK), draw.randbytes(2)))
        raw[place : place + length] = found
    return bytes(raw)


def files(format: str, folder: Path, pieces: Sequence[bytes]) -> Iterator[tuple[random.Random, InputFile]]:
    """Write one hostile file after the other, put together from the pieces, and yield each."""
    path = folder / f"a.{format}"
    for number in range(NUM_FILES):
        draw = random.Random(f"{format} {number}")
        data = b"".join(draw.choices(pieces, k=draw.choice((1, 5, 30, 200))))
        path.write_bytes(mutated(draw, data, pieces))
        yield draw, InputFile(path, path.name)


def read(function: Any, file: InputFile, **options: Any) -> list[Record | Bad] | str:
    """Return the rows of a file, having checked what holds of all, or the one line that says why there are none."""
    try:
        rows = list(function(file, **options))
    except DataError as error:
        assert "\n" not in str(error) and str(error)
        return str(error)
    numbers: Counter[str] = Counter()
    for row in rows:
        table, _, number = row.key.rpartition("/")
        assert int(number) == numbers[table]
        numbers[table] += 1
        if isinstance(row, Bad):
            assert row.reason in QUARANTINE_REASONS and row.place and "\n" not in row.place[:20]
        else:
            json.dumps(row.fields, allow_nan=False).encode()
            json.dumps(row.fields, ensure_ascii=False).encode()  # no lone surrogates
    return rows


def strictly(line: bytes) -> Any:
    """Return what a line of JSON holds, as the standard library reads it; raise ValueError for what must not pass."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a double key")
        return dict(pairs)

    def refused(text: str) -> Any:
        raise ValueError(text)

    value = json.loads(line.decode("utf-8"), object_pairs_hook=unique, parse_constant=refused)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return value


JSON_PIECES = [
    b'{"a": 1}\n',
    b'{"a": "x\\"y: \\\\", "b": [1, {"c": null}]}\n',
    b'{"messages": [{"role": "user", "content": "\xe4\xbd\xa0"}, {"role": "assistant", "content": "z"}]}\r\n',
    b'{"a": 1, "a": 2}\n',
    b'{"a" : [[[]]], "b\\"": {"b\\"": 1}}\n',
    b'{"n": 12345678901234567890123, "f": -1.5e300}\n',
    b'{"\\u0061": "\\ud83d\\ude00"}\n',
    b'{"a": "\\ud800"}\n',
    b'{"a": NaN}\n',
    b"\n",
    b"  \n",
    b'[{"role": "user", "content": "x"}]\n',
    b"5\n",
    b'{"a":',
]


def test_jsonl_reads_each_line_as_the_standard_library_does(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for draw, file in files("jsonl", tmp_path, JSON_PIECES):
        file.path.write_bytes(b'{"first": 0}\n' + file.path.read_bytes())  # no array
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_encoding, "BLOCK", draw.choice(BLOCKS))
            rows = read(jsonl, file)
        assert isinstance(rows, list)
        lines = [line for line in file.path.read_bytes().split(b"\n") if line.strip()]
        assert len(rows) == len(lines)
        for row, line in zip(rows, lines, strict=True):
            try:
                wanted = strictly(line)
            except ValueError:
                wanted = None
            if isinstance(wanted, list) and all(isinstance(item, dict) for item in wanted):
                wanted = {"messages": wanted}
            assert (row.fields if isinstance(row, Record) else None) == (wanted if isinstance(wanted, dict) else None), line
            seen[type(row).__name__] += 1
    assert min(seen["Record"], seen["Bad"]) > NUM_FILES


def test_json_arrays_never_fail(tmp_path: Path) -> None:
    pieces = [b"[", b"]", b",", b'{"a": [1, "]"]}', b'{"b": "\\"{"}', b" \n", b"5", b'"x"', b"{", b"}"]
    seen: Counter[str] = Counter()
    for _, file in files("json", tmp_path, pieces):
        rows = read(jsonl, file)
        seen.update(type(row).__name__ for row in rows)
    assert min(seen["Record"], seen["Bad"]) > NUM_FILES // 20


CSV_PIECES = [
    b"1,2\n",
    b"a,b\r\n",
    b'"x, y","z"\n',
    b'"two\nlines",\xe4\xbd\xa0\n',
    b'"say ""hi""",""\r',
    b"ragged\n",
    b"1,2,3\n",
    b'5" pipe,v\n',
    b'"a"b,w\n',
    b'"open,u\n',
    b"\n",
    b"  \n",
    b'"","',
    b'""""\n',
]


def test_csv_read_by_the_buffer_and_row_by_row_is_the_same(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for draw, file in files("csv", tmp_path, CSV_PIECES):
        file.path.write_bytes(b"h,i\n" + file.path.read_bytes())
        options = {"delimiter": ",", "encoding": draw.choice(("utf-8", "cp1252", "gb18030"))}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_encoding, "BLOCK", draw.choice(BLOCKS))
            rows = read(csv_, file, **options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_csv_rows, "find_cells", lambda text, delimiter: None)
            patch.setattr(_csv_rows.RowScan, "_plain_run", lambda self, num_fields: None)
            assert rows == read(csv_, file, **options), file.path.read_bytes()
        seen.update(row.reason if isinstance(row, Bad) else "Record" for row in rows if not isinstance(row, str))
    assert min(seen["Record"], seen["csv_fields"], seen["csv_quote"], seen["encoding"]) > NUM_FILES // 20


SQL_HEADS = {
    "mysql": b"-- MySQL dump\nCREATE TABLE `t` (`a` int, `b` text, `c` blob) ENGINE=InnoDB;\n",
    "postgresql": b"-- PostgreSQL database dump\nCREATE TABLE public.t (a integer, b text, c bytea);\n",
    "sqlite": b"PRAGMA foreign_keys=OFF;\nCREATE TABLE t(a INTEGER, b TEXT, c BLOB);\n",
}
SQL_PIECES = {
    "mysql": [
        b"INSERT INTO `t` VALUES (1,'it\\'s',NULL),(2,'\\\\',_binary '\xff');\n",
        b"INSERT INTO `t` VALUES (3,'a''b',0xAB),\n(4,'),(',x'00');\n",
        b"/*!40000 ALTER TABLE `t` DISABLE KEYS */;\n",
        b"REPLACE INTO `t` (`c`,`a`) VALUES ('x',1.5e3);\n",
        b"INSERT INTO `t` VALUES (5,'six');\n",
    ],
    "postgresql": [
        b"COPY public.t (a, b, c) FROM stdin;\n1\tx\\ty\t\\\\x00\n2\t\\N\t\\N\n\\.\n",
        b"INSERT INTO public.t VALUES (3, 'back\\', '\\x00'), (4, E'it\\'s', NULL);\n",
        b"INSERT INTO public.t VALUES (5, $$do'l$$, 'x'::text);\n",
        b"SET standard_conforming_strings = on;\n",
    ],
    "sqlite": [
        b"INSERT INTO t VALUES(1,'it''s',X'00ff');\n",
        b"INSERT INTO t VALUES(2,replace('a\\nb','\\n',char(10)),NULL);\n",
        b"INSERT INTO t VALUES(3,unistr('\\u4f60'),-1.5);\n",
        b"CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 1; END;\n",
    ],
}


@pytest.mark.parametrize("dialect", ["mysql", "postgresql", "sqlite"])
def test_sql_matched_at_once_and_value_by_value_is_the_same(tmp_path: Path, dialect: str) -> None:
    seen: Counter[str] = Counter()
    pieces = [*SQL_PIECES[dialect], b";", b"(", b"')", b"/*", b"*/", b"--", b"\n"]
    for draw, file in files("sql", tmp_path, pieces):
        file.path.write_bytes(SQL_HEADS[dialect] + file.path.read_bytes())
        options = {"dialect": dialect, "encoding": draw.choice(("utf-8", "gb18030"))}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_encoding, "BLOCK", draw.choice(BLOCKS))
            rows = read(sql, file, **options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_sql_rows, "_MOST_GROUPS", 0)
            assert rows == read(sql, file, **options), file.path.read_bytes()
        seen.update(type(row).__name__ for row in rows)
    assert min(seen["Record"], seen["Bad"]) > NUM_FILES // 2


TABLE = pa.table({"a": ["x", None, "你"], "b": [[{"c": 1}], [], None], "n": [1.5, 2.5, None]})


@pytest.mark.parametrize("form", ["parquet", "stream", "file"])
def test_arrow_and_parquet_with_flipped_bytes_give_rows_or_one_line(tmp_path: Path, form: str) -> None:
    path = tmp_path / ("a.parquet" if form == "parquet" else "a.arrow")
    if form == "parquet":
        pq.write_table(TABLE, path)
    else:
        opened = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as sink, opened(sink, TABLE.schema) as out:
            out.write_table(TABLE)
    data = path.read_bytes()
    seen: Counter[str] = Counter()
    for number in range(NUM_FILES):
        draw = random.Random(f"{form} {number}")
        path.write_bytes(mutated(draw, data, JUNK))
        seen[type(read(parquet if form == "parquet" else arrow, InputFile(path, path.name))).__name__] += 1
    assert min(seen["list"], seen["str"]) > 0
