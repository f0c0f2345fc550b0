"""Files that are damaged or expand without measure cost their own records, not the build; each is a row of the quarantine."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sftdata import sources
from sftdata.errors import DataError, SftdataError
from sftdata.ingesting import ingest
from sftdata.reading import Reading
from sftdata.records import Bad, Record
from sftdata.registry import find_step, ingestor
from sftdata.sources import InputFile

LINES = b"".join(b'{"text": "%s"}\n' % (b"%d " % number * 30) for number in range(20_000))


def quarantined(folder: Path) -> list[tuple[str, str, str]]:
    table = pq.read_table(folder / "quarantine.parquet").to_pylist()
    return [(row["id"], row["reason"], row["place"]) for row in table]


def test_damaged_and_expanding_files_are_quarantined_and_the_others_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "EXPANSION_GRACE", 1 << 20)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(LINES)[:-20_000])
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' + b" " * (4 << 20)))
    (folder / "c.jsonl.zst").write_bytes(b"no zstd at all")
    (folder / "d.jsonl").write_bytes(b'{"text": "good"}\n')
    result = ingest(folder, format="jsonl", out=tmp_path / "out", workers=1)
    found = quarantined(tmp_path / "out")
    assert [(row[0].partition("#")[0], row[1]) for row in found] == [
        ("a.jsonl.gz", "file_damaged"),
        ("b.jsonl.gz", "file_expands"),
        ("c.jsonl.zst", "file_damaged"),
    ]
    first = int(found[0][0].partition("#")[2])
    assert 0 < first < 20_000 and f"from record {first} on: cannot be read: damaged" in found[0][2]
    counts = result.manifest["counts"]["prepare"]
    assert counts["quarantined"] == 3 and counts["kept"] == counts["records"] - 3 > first


def test_damaged_member_of_an_archive_costs_itself(tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.html", "<p>first page</p>" * 50)
        archive.writestr("b.html", "<p>second page</p>")
    raw = bytearray(data.getvalue())
    raw[45:60] = bytes(15)
    (tmp_path / "pages.zip").write_bytes(raw)
    ingest(tmp_path / "pages.zip", format="html", out=tmp_path / "out", options={"mode": "text"}, workers=1)
    assert [row[:2] for row in quarantined(tmp_path / "out")] == [("pages.zip!/a.html#0", "file_damaged")]


@pytest.mark.parametrize(("format", "ending"), [("csv", "csv.gz"), ("parquet", "parquet"), ("sql", "sqlite")])
def test_file_of_which_nothing_can_be_read_is_one_row(tmp_path: Path, format: str, ending: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good = {"csv": b"a,b\n1,2\n", "sql": b"CREATE TABLE t (a);\nINSERT INTO t VALUES (1);\n"}
    if format == "parquet":
        pq.write_table(pa.table({"a": [1, 2]}), folder / "good.parquet")
        (folder / f"bad.{ending}").write_bytes((folder / "good.parquet").read_bytes()[:-9])
    else:
        (folder / f"good.{format}").write_bytes(good[format])
        damaged = b"SQLite format 3\0" + bytes(3000) if format == "sql" else gzip.compress(b"a,b\n")[:-3]
        (folder / f"bad.{ending}").write_bytes(damaged)
    ingest(folder, format=format, out=tmp_path / "out", workers=1)
    assert [row[:2] for row in quarantined(tmp_path / "out")] == [(f"bad.{ending}#0", "file_damaged")]


def test_source_of_one_damaged_file_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="file_damaged"):
        ingest(tmp_path / "a.jsonl.gz", format="jsonl", out=tmp_path / "out", workers=1)


def test_what_a_step_itself_does_wrong_stops_the_build(tmp_path: Path) -> None:
    @ingestor
    def wrong_reader(file: InputFile) -> Iterator[Record | Bad]:
        raise ValueError("no luck")
        yield

    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(SftdataError, match=r"a\.txt: ingestor 'wrong_reader' raised ValueError: no luck"):
        list(Reading(find_step("ingestor", "wrong_reader"), InputFile(tmp_path / "a.txt", "a.txt"), {}).records())
