"""The CSV ingestor: every cell is text, rows are read as the standard library reads them, broken ones are quarantined."""

from __future__ import annotations

import csv
import gzip
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.errors import DataError, RecipeError
from sftdata.ingesting import ingest
from sftdata.ingestors import _csv_cells, _csv_pieces, _csv_rows, _encoding
from sftdata.ingestors.csv import csv_, row_pieces
from sftdata.records import Bad, Record
from sftdata.registry import check_options, find_step
from sftdata.schemas import QUARANTINE_REASONS
from sftdata.sources import InputFile

NUM_CASES = int(os.environ.get("SFTDATA_FUZZ_TABLES", "150"))

SHARED_CSV = Path(__file__).resolve().parents[2] / "shared" / "data" / "csv" / "csv_organization_100.csv"


def read(folder: Path, data: bytes | str, name: str = "a.csv", **options: Any) -> list[Record | Bad]:
    """Ingest `data` as a file and check what holds of every file: keys count from 0, reasons are known."""
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    rows = list(csv_(InputFile(path, name), **options))
    assert [row.key for row in rows] == [str(number) for number in range(len(rows))]
    assert all(row.reason in QUARANTINE_REASONS for row in rows if isinstance(row, Bad))
    return rows


def cells(rows: list[Record | Bad]) -> list[list[str] | str]:
    """Return the cells of records, and the reasons of bad rows."""
    return [list(row.fields.values()) if isinstance(row, Record) else row.reason for row in rows]


def test_csv_step_is_called_csv() -> None:
    step = find_step("ingestor", "csv")
    assert step.function is csv_
    assert check_options(step, {"delimiter": ";", "columns": ["a"]}) == {"delimiter": ";", "columns": ["a"]}


@pytest.mark.parametrize("copies", [1, 200], ids=["split here", "read by pandas"])
def test_csv_cells_stay_text(tmp_path: Path, copies: int) -> None:
    row = '007,NA,null,,"",1.10,True, x ,"a ""b"", c\r\nd\n"'
    rows = read(tmp_path, "a,b,c,d,e,f,g,h,i\r\n" + (row + "\r\n") * copies)
    assert cells(rows) == [["007", "NA", "null", "", "", "1.10", "True", " x ", 'a "b", c\r\nd\n']] * copies


@pytest.mark.parametrize("copies", [1, 200], ids=["split here", "read by pandas"])
def test_csv_keeps_nul_and_leading_byte_order_marks_in_cells(tmp_path: Path, copies: int) -> None:
    rows = read(tmp_path, "\ufeffa,b\n" + "\ufeffx,y\0z\n" * copies)
    assert cells(rows) == [["\ufeffx", "y\0z"]] * copies


def test_csv_quotes_inside_a_field_are_characters(tmp_path: Path) -> None:
    assert cells(read(tmp_path, 'a,b\n5" pipe,x"y"\n')) == [['5" pipe', 'x"y"']]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_line_ends(tmp_path: Path, end: str) -> None:
    rows = read(tmp_path, end.join(["a,b", "1,2", "", "3,4", "5", "6,7"]), header=True)
    assert cells(rows) == [["1", "2"], ["3", "4"], "csv_fields", ["6", "7"]]
    assert isinstance(rows[2], Bad) and rows[2].place == "line 5: 1 fields, the header has 2"


def test_csv_quarantines_ragged_rows_with_their_bytes(tmp_path: Path) -> None:
    rows = read(tmp_path, 'a,b\n1,2\n1,2,"x,\ny"\n3,4\n')
    assert cells(rows) == [["1", "2"], "csv_fields", ["3", "4"]]
    bad = rows[1]
    assert isinstance(bad, Bad)
    assert (bad.place, bad.raw) == ("line 3: 3 fields, the header has 2", b'1,2,"x,\ny"')


def test_csv_open_quote_costs_one_line(tmp_path: Path) -> None:
    rows = read(tmp_path, 'a,b\n1,"open\n' + "2,x\n" * 3000)
    assert cells(rows) == ["csv_quote", *[["2", "x"]] * 3000]
    assert isinstance(rows[0], Bad) and rows[0].raw == b'1,"open' and rows[0].place.startswith("line 2: ")


def test_csv_open_quote_that_meets_another_quote_costs_one_line(tmp_path: Path) -> None:
    rows = read(tmp_path, 'a,b\n1,"open\n2,"good, text"\n3,"x"y\n4,z\n')
    assert cells(rows) == ["csv_quote", ["2", "good, text"], "csv_quote", ["4", "z"]]


def test_csv_field_of_a_thousand_lines_is_read_and_a_longer_one_is_not(tmp_path: Path) -> None:
    long, longer = "x\n" * 999, "x\n" * 1001
    rows = read(tmp_path, f'a\n"{long}"\n"{longer}"\n')
    assert cells(rows) == [[long], "csv_quote", *[["x"]] * 1000, "csv_quote"]


def test_csv_cells_of_a_megabyte_come_back(tmp_path: Path) -> None:
    cell = '你好, "x"\n' * 100 + "y" * 1_000_000
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["a", "b"], *[[cell, str(n)] for n in range(5)]])
    assert cells(read(tmp_path, out.getvalue())) == [[cell, str(n)] for n in range(5)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_csv_encoding_is_found(tmp_path: Path, encoding: str) -> None:
    assert cells(read(tmp_path, "问,答\n你好吗？,很好。\n".encode(encoding))) == [["你好吗？", "很好。"]]


def test_csv_falls_back_to_cp1252(tmp_path: Path) -> None:
    assert cells(read(tmp_path, "a,b\ncafé,“x”\n".encode("cp1252"))) == [["café", "“x”"]]


def test_csv_encoding_is_validated_to_the_end_of_the_stream(tmp_path: Path) -> None:
    data = b"a,b\n" + b"x,y\n" * 600_000 + "你好,再见\n".encode("gb18030")
    assert cells(read(tmp_path, data))[-1] == ["你好", "再见"]


def test_csv_damaged_utf8_stays_utf8_and_loses_only_the_row(tmp_path: Path) -> None:
    rows = read(tmp_path, b"a,b\n" + "你好,再见\n".encode() * 60 + b"\xff,x\n" + "你,再\n".encode())
    assert cells(rows) == [["你好", "再见"]] * 60 + ["encoding", ["你", "再"]]
    assert isinstance(rows[60], Bad) and rows[60].raw == b"\xff,x"


@pytest.mark.parametrize(
    ("delimiter", "name"), [(",", "a.csv"), (";", "a.csv"), ("\t", "a.csv"), ("|", "a.csv"), ("\t", "a.tsv")]
)
def test_csv_delimiter_is_told_from_the_head(tmp_path: Path, delimiter: str, name: str) -> None:
    text = "".join(delimiter.join(row) + "\n" for row in [["a", "b"], ["1.5", "x y"], ["2", "z"]])
    assert cells(read(tmp_path, text, name)) == [["1.5", "x y"], ["2", "z"]]


def test_csv_decimal_commas_do_not_pass_for_delimiters(tmp_path: Path) -> None:
    assert cells(read(tmp_path, "a;b\n1,5;2,5\n3,5;4,5\n")) == [["1,5", "2,5"], ["3,5", "4,5"]]


def test_tsv_is_cut_at_tabs_alone(tmp_path: Path) -> None:
    assert cells(read(tmp_path, "a,b\n1,2\n", "a.tsv")) == [["1,2"]]


def test_csv_columns_replace_or_stand_for_the_header(tmp_path: Path) -> None:
    assert read(tmp_path, "a,a\n1,2\n", columns=["x", "y"]) == [Record("0", {"x": "1", "y": "2"})]
    assert read(tmp_path, "1,2\n3,4", header=False, columns=["x", "y"])[0] == Record("0", {"x": "1", "y": "2"})


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "is empty"),
        ("\n\n", {}, "is empty"),
        ("a,b,a\n1,2,3\n", {}, "names 'a' twice; name the fields with columns"),
        ("a,,b\n1,2,3\n", {}, "field 2 of the header has no name"),
        ('a,"b\n1,2\n', {}, "line 1: the header cannot be read: a quote that is never closed"),
        ("a,b\n1,2\n", {"columns": ["x"]}, "the header has 2 fields, columns names 1"),
    ],
)
def test_csv_without_a_usable_header_is_an_error(tmp_path: Path, text: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, text, **options)


def test_csv_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="delimiter ';;'"):
        read(tmp_path, "a\n", delimiter=";;")
    with pytest.raises(RecipeError, match="columns"):
        read(tmp_path, "a\n", header=False)


CELL = st.text(st.sampled_from(list('ab,;"\n\r\t |0你\ufeff\0')), max_size=6)


@settings(max_examples=NUM_CASES, deadline=None)
@given(
    table=st.integers(1, 4).flatmap(
        lambda width: st.lists(st.lists(CELL, min_size=width, max_size=width), min_size=1, max_size=5)
    ),
    copies=st.sampled_from([1, 40]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
)
def test_csv_tables_come_back(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]], copies: int, quoting: Any, delimiter: str
) -> None:
    names = [f"c{place}" for place in range(len(table[0]))]
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, quoting=quoting).writerows([names, *table * copies])
    rows = read(tmp_path_factory.getbasetemp(), out.getvalue(), delimiter=delimiter)
    assert [row.fields for row in rows if isinstance(row, Record)] == [
        dict(zip(names, row, strict=True)) for row in table * copies
    ]


@settings(max_examples=NUM_CASES, deadline=None)
@given(body=st.text(st.sampled_from(list('a,"\n\r')), max_size=40), copies=st.sampled_from([1, 30]))
def test_csv_agrees_with_the_standard_library(tmp_path_factory: pytest.TempPathFactory, body: str, copies: int) -> None:
    text = "x,y\n" + (body + "\n") * copies
    rows = read(tmp_path_factory.getbasetemp(), text, delimiter=",", encoding="utf-8")
    if any(isinstance(row, Bad) and row.reason == "csv_quote" for row in rows):
        return  # where the standard library guesses, nothing is read
    wanted = [row for row in csv.reader(io.StringIO(text, newline="")) if row][1:]
    assert cells(rows) == [row if len(row) == 2 else "csv_fields" for row in wanted]


@pytest.mark.skipif(not SHARED_CSV.is_file(), reason="the shared CSV sample is not here")
def test_csv_reads_a_real_file_as_the_standard_library_does() -> None:
    with SHARED_CSV.open(newline="", encoding="utf-8-sig") as file:
        wanted = list(csv.DictReader(file))
    assert len(wanted) == 100
    assert [row.fields for row in csv_(InputFile(SHARED_CSV, SHARED_CSV.name)) if isinstance(row, Record)] == wanted


LINES = [
    *("a,b", "1,2", "x,y,z", "", "  ", "\u3000", '"q, r",s', '"two\nlines",t', '"open,u'),
    *('5" pipe,v', '"a"b,w', "é,你", "\x85\xa0", '"","",'),
]


@settings(max_examples=NUM_CASES, deadline=None)
@given(
    lines=st.lists(st.sampled_from(LINES) | st.sampled_from(["1,2", "3,4"]), max_size=60),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    last=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "gb18030"]),
    header=st.booleans(),
    size=st.integers(1, 80),
    block=st.sampled_from([5, 64, 1 << 17]),
)
def test_csv_cut_into_pieces_shows_nowhere(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[str],
    end: str,
    last: bool,
    encoding: str,
    header: bool,
    size: int,
    block: int,
) -> None:
    path = tmp_path_factory.mktemp("pieces") / "rows.csv"
    text = end.join([*(["h,i"] if header else []), "1,2", "你,好", *lines]) + (end if last else "")
    path.write_bytes(text.encode(encoding))
    whole = InputFile(path, "rows.csv")
    options: dict[str, Any] = {} if header else {"header": False, "columns": ["h", "i"]}
    with pytest.MonkeyPatch.context() as patch:
        for module in (_csv_cells, _csv_rows, _csv_pieces):
            patch.setattr(module, "MAX_FIELD_LINES", 3)
        patch.setattr(_csv_pieces, "PIECE_BYTES", size)
        for module in (_encoding, _csv_pieces):
            patch.setattr(module, "BLOCK", block)
        pieces = row_pieces(whole, **options)
        assert pieces or path.stat().st_size < 2 * size
        cut = [row for piece in pieces for row in csv_(replace(whole, piece=piece), **options)]
        rows = list(csv_(whole, **options))
    assert not pieces or (cut == rows and len(rows) > 1)
    assert not pieces or sum(piece.length for piece in pieces) <= path.stat().st_size


def test_csv_large_file_is_cut_and_small_compressed_and_wide_ones_are_not(tmp_path: Path) -> None:
    table = "a,b\n" + '"x, y",z\n' * 1_200_000
    for name, data, wanted in (
        ("a.csv", table.encode(), 3),
        ("b.csv", table.encode("utf-16"), 0),
        ("c.csv", table[: 1 << 20].encode(), 0),
        ("d.csv.gz", gzip.compress(table.encode(), 1), 0),
    ):
        (tmp_path / name).write_bytes(data)
        pieces = row_pieces(InputFile(tmp_path / name, name))
        assert len(pieces) == wanted, name
        assert all(piece.layout == {"encoding": "utf-8", "delimiter": ",", "columns": ["a", "b"]} for piece in pieces)


def test_csv_layout_is_in_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("问;答\n你好;再见\n".encode("gb18030"))
    result = ingest(tmp_path / "a.csv", format="csv", out=tmp_path / "out")
    [entry] = result.manifest["inputs"]
    assert entry["layout"] == {"encoding": "gb18030", "delimiter": ";", "columns": ["问", "答"]}
