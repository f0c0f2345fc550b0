"""Hostile tables, dumps and JSON, each made to exhaust a parser: read or quarantined soon, and good rows are still found."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from sftdata.errors import DataError
from sftdata.ingestors.csv import csv_
from sftdata.ingestors.jsonl import jsonl
from sftdata.ingestors.sql import sql
from sftdata.records import Bad, Record
from sftdata.schemas import QUARANTINE_REASONS
from sftdata.sources import InputFile

MAX_SECONDS = 30
"""CPU seconds for one file of about a megabyte: a hang, whatever the machine."""

JSON_LINES = {
    "open arrays": "[" * 500_000,
    "open objects": '{"a":' * 200_000,
    "closed arrays": '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "many keys": "{" + ",".join(f'"k{number}": 1' for number in range(50_000)) + "}",
    "one key again and again": "{" + ",".join('"k": 1' for _ in range(50_000)) + "}",
    "quotes": '"' * 500_000,
    "backslashes": '{"a": "' + "\\" * 500_001,
    "an endless number": '{"n": ' + "1" * 500_000 + "}",
    "an endless exponent": '{"n": 1e' + "9" * 100_000 + "}",
    "colons": '{"a": "' + '\\":' * 150_000 + '"}',
    "nothing": "\0" * 500_000,
    "spaces": " " * 500_000 + "{",
    "line separators": '{"a": "' + "\u2028" * 100_000 + '"}',
    "commas": "[" + "," * 50_000,
}
CSV = {
    "quotes": '"' * 500_001,
    "commas": "," * 500_000,
    "a quote a line": '"a\n' * 100_000,
    "open cells": '"a,' * 150_000,
    "carriage returns": "x\r" * 50_000,
    "closed and open": '"",' * 200_000,
    "quotes in words": 'a"b,' * 100_000,
    "one long line": "x" * 2_000_000,
    "nothing": "\0" * 500_000,
}
SQL = {
    "open rows": "INSERT INTO t (a) VALUES " + "(" * 300_000,
    "open strings": "INSERT INTO t (a) VALUES " + "('" * 200_000,
    "quotes": "INSERT INTO t (a) VALUES (" + "'" * 300_001,
    "backslashes": "INSERT INTO t (a) VALUES ('" + "\\" * 300_001,
    "rows without end": "INSERT INTO t (a) VALUES " + "(1)," * 50_000,
    "comments": "/*" * 300_000,
    "dashes": "-- x\n" * 100_000 + "--",
    "dollars": "DO " + "$a$ $b$ " * 50_000 + ";",
    "columns": "CREATE TABLE u (" + ",".join(f"c{number} int" for number in range(5_000)) + ");",
    "definitions": "CREATE TABLE u (" + "(" * 100_000,
    "triggers": "CREATE TRIGGER x BEGIN " * 2_000,
    "bodies": "CREATE TRIGGER x BEGIN " + "SELECT 1; " * 20_000,
    "semicolons": ";" * 100_000,
    "words": "nonsense " * 50_000,
    "broken statements": "INSERT INTO t (a) VALUES (now());\n" * 5_000,
    "backticks": "INSERT INTO " + "`" * 300_001,
    "names": "INSERT INTO " + "a." * 150_000,
    "modifiers": "INSERT" + " IGNORE" * 50_000,
    "casts": "INSERT INTO t (a) VALUES (1" + "::int" * 50_000 + ");",
    "joints": "INSERT INTO t (a) VALUES ('a'" + " || 'a'" * 20_000 + ");",
    "delimiters": "DELIMITER ;;\n" * 20_000,
    "copy": "COPY t (a) FROM stdin;\n" + "\\" * 300_000,
    "tabs": "COPY t (a) FROM stdin;\n" + "\t" * 300_000 + "\n\\.",
}


def read(function: Any, path: Path, data: str, **options: Any) -> list[Record | Bad]:
    path.write_text(data, encoding="utf-8", newline="")
    begin = time.process_time()
    try:
        rows = list(function(InputFile(path, path.name), **options))
    except DataError as error:
        assert "\n" not in str(error)
        rows = []
    assert time.process_time() - begin < MAX_SECONDS
    for row in rows:
        assert row.reason in QUARANTINE_REASONS if isinstance(row, Bad) else json.dumps(row.fields, ensure_ascii=False).encode()
    return rows


@pytest.mark.parametrize("name", JSON_LINES)
def test_hostile_line_costs_itself(tmp_path: Path, name: str) -> None:
    rows = read(jsonl, tmp_path / "a.jsonl", '{"first": 1}\n' + JSON_LINES[name] + '\n{"last": 1}\n')
    assert len(rows) == 3 and rows[0] == Record("0", {"first": 1}) and rows[2] == Record("2", {"last": 1})
    read(jsonl, tmp_path / "a.json", JSON_LINES[name])  # as an array, where it begins as one


@pytest.mark.parametrize("name", CSV)
def test_hostile_csv_keeps_the_first_row(tmp_path: Path, name: str) -> None:
    rows = read(csv_, tmp_path / "a.csv", "x,y\n1,2\n" + CSV[name] + "\n3,4\n")
    assert rows[0] == Record("0", {"x": "1", "y": "2"}) and len(rows) > 1
    assert rows[-1] == Record(str(len(rows) - 1), {"x": "3", "y": "4"})
    read(csv_, tmp_path / "b.csv", CSV[name])


@pytest.mark.parametrize("dialect", ["mysql", "postgresql", "sqlite"])
@pytest.mark.parametrize("name", SQL)
def test_hostile_dump_keeps_the_first_row(tmp_path: Path, name: str, dialect: str) -> None:
    good = "INSERT INTO t (a) VALUES (1);\n"
    rows = read(sql, tmp_path / "a.sql", good + SQL[name] + "\n" + good, dialect=dialect)
    assert rows[0] == Record("t/0", {"a": 1})
    assert len(rows) > 1
