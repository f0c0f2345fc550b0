"""Large dumps are read in pieces, cut between rows; nothing that comes out depends on the cut."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sftdata.ingesting import ingest
from sftdata.ingestors import _encoding, _sql_pieces
from sftdata.ingestors import sql as sql_module
from sftdata.ingestors.sql import row_pieces, sql
from sftdata.records import Bad
from sftdata.shards import shard_name
from sftdata.sources import InputFile

NUM_DUMPS = int(os.environ.get("SFTDATA_FUZZ_TABLES", "60"))

HEADS = {
    "mysql": "-- MySQL dump\nCREATE TABLE `t` (`a` int, `b` text, `c` blob) ENGINE=InnoDB;\nCREATE TABLE `表` (`名` text);\n",
    "postgresql": "-- PostgreSQL database dump\nCREATE TABLE public.t (a integer, b text, c bytea);\n",
    "sqlite": "PRAGMA foreign_keys=OFF;\nCREATE TABLE t(a INTEGER, b TEXT, c BLOB);\nCREATE TABLE \"表\"(\"名\" TEXT);\n",
}
STATEMENTS = {
    "mysql": [
        "INSERT INTO `t` VALUES (1,'it\\'s; (x),\\n',NULL),(2,'\\\\',_binary 'x'), (3, '你好', 0xAB);\n",
        "INSERT INTO `表` VALUES ('一'),\n('二');\n",
        "INSERT INTO `t` VALUES (5,'too few');\n",
        "/*!40000 ALTER TABLE `t` DISABLE KEYS */;\n",
        "REPLACE INTO `t` (`c`,`a`) VALUES ('x',1.5e3);\n",
        "CREATE TABLE `u` (`x` int);\nINSERT INTO `u` VALUES (1),(2) ON DUPLICATE KEY UPDATE x = 1;\n",
    ],
    "postgresql": [
        "COPY public.t (a, b, c) FROM stdin;\n1\tx\\ty\t\\\\x00\n2\t\\N\t\\N\n3\t你\t\\N\nragged\n\\.\n",
        "INSERT INTO public.t VALUES (3, 'back\\', '\\x00'), (4, E'it\\'s', NULL);\n",
        "INSERT INTO public.t VALUES (5, $$do'l$$, 'x'::text);\n",
        "COPY other.t (a) FROM stdin;\n5\n\\.\n",
    ],
    "sqlite": [
        "INSERT INTO t VALUES(1,'it''s',X'00ff');\n",
        "INSERT INTO t VALUES(2,replace('a\\nb','\\n',char(10)),NULL);\n",
        "INSERT INTO \"表\" VALUES('二');\nINSERT INTO sqlite_sequence VALUES('t',2);\n",
        "CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 1; END;\n",
    ],
}
BROKEN = ["INSERT INTO t VALUES (1, now());\n", "INSERT INTO t VALUES (1,'open", "nonsense;\n", "\udcff"]


@settings(max_examples=NUM_DUMPS, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), dialect=st.sampled_from(sorted(HEADS)), size=st.integers(1, 200))
def test_dump_cut_into_pieces_shows_nowhere(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, dialect: str, size: int
) -> None:
    usual = st.lists(st.sampled_from(STATEMENTS[dialect]), min_size=3, max_size=15)
    statements = data.draw(usual) + data.draw(st.lists(st.sampled_from([*BROKEN, *STATEMENTS[dialect]]), max_size=2))
    path = tmp_path_factory.mktemp("pieces") / "dump.sql"
    path.write_bytes((HEADS[dialect] + "".join(statements)).encode("utf-8", "surrogateescape"))
    chosen: list[dict[str, Any]] = [{}, {"table": "t"}, {"table": "t", "where": "a > 1"}]
    options = {"dialect": dialect, **data.draw(st.sampled_from(chosen))}
    whole = InputFile(path, path.name)
    with pytest.MonkeyPatch.context() as patch:
        for module in (_sql_pieces, sql_module):
            patch.setattr(module, "PIECE_CHARS", size)
        patch.setattr(_encoding, "BLOCK", data.draw(st.sampled_from((3, 64, 1 << 17))))
        rows = list(sql(whole, **options))
        pieces = row_pieces(whole, **options)
        parts = [list(sql(replace(whole, piece=piece), **options)) for piece in pieces]
    unreadable = any(isinstance(row, Bad) and row.reason in ("sql_syntax", "sql_truncated") for row in rows)
    assert not (unreadable and "where" not in options and pieces)
    if pieces:
        assert [row for part in parts for row in part] == rows
        assert pieces[0].start == 0 and sum(piece.length for piece in pieces) == path.stat().st_size
        if "where" not in options and "table" not in options:
            assert [piece.first_record for piece in pieces] == [sum(map(len, parts[:place])) for place in range(len(parts))]


def read_table(path: str) -> pa.Table:
    with pa.memory_map(path) as stream:
        return pa.ipc.open_stream(stream).read_all()


def large_dump(path: Path, num_rows: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write("-- PostgreSQL database dump\nCREATE TABLE public.t (a integer, b text);\n")
        file.write("COPY public.t (a, b) FROM stdin;\n")
        file.writelines(f"{number}\t你好 {number} and more\n" for number in range(num_rows))
        file.write("\\.\n")


def test_large_dump_is_cut_and_ingested_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sql_pieces, "PIECE_CHARS", 1 << 16)
    monkeypatch.setattr(sql_module, "PIECE_CHARS", 1 << 16)
    (tmp_path / "in").mkdir()
    large_dump(tmp_path / "in" / "dump.sql", 20_000)
    pieces = row_pieces(InputFile(tmp_path / "in" / "dump.sql", "dump.sql"))
    assert len(pieces) > 5 and max(len(json.dumps(piece)) for piece in pieces) < 400
    cut = ingest(tmp_path / "in", format="sql", out=tmp_path / "cut", workers=1)
    monkeypatch.setattr(sql_module, "PIECE_CHARS", 1 << 40)
    whole = ingest(tmp_path / "in", format="sql", out=tmp_path / "whole", workers=1)
    rows = [read_table(str(result.folder / "documents" / shard_name(0, 1))) for result in (cut, whole)]
    assert rows[0].equals(rows[1]) and len(rows[0]) == 20_000
    assert all(cut.manifest[name] == whole.manifest[name] for name in ("counts", "inputs"))
    assert cut.manifest["inputs"][0]["layout"] == {"dialect": "postgresql", "encoding": "utf-8"}


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.sql.gz", {}), ("a.sql", {"join": {"table": "u", "on": {"a": "a"}}, "table": "t"}), ("a.sql", {"encoding": "gb18030"})],
)
def test_dump_that_must_be_read_in_one_go_is_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(sql_module, "PIECE_CHARS", 1)
    (tmp_path / name).write_bytes(b"INSERT INTO t (a) VALUES (1),(2);\n")
    assert row_pieces(InputFile(tmp_path / name, name), **options) == []
