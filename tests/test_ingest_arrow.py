"""Parquet and Arrow files, and datasets: every value comes back as JSON has it, damage is named, a split is sliced."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.errors import DataError
from sftdata.ingesting import ingest
from sftdata.ingestors.arrow import arrow
from sftdata.ingestors.parquet import parquet
from sftdata.records import Bad, Record
from sftdata.sources import InputFile

TABLE = pa.table(
    {
        "text": ["你好", None, ""],
        "messages": [[{"role": "user", "content": "x"}], [], None],
        "number": pa.array([1, 2**63 - 1, None], pa.int64()),
        "float": [1.5, float("nan"), float("-inf")],
        "big": pa.array([decimal.Decimal("1.10"), None, None], pa.decimal128(10, 2)),
        "day": [datetime.date(2024, 1, 2), None, None],
        "time": pa.array([datetime.datetime(2024, 1, 2, 3, 4, 5), None, None], pa.timestamp("us")),
        "raw": [b"\x00\xff", b"", None],
        "kind": pa.array(["a", "b", "a"]).dictionary_encode(),
        "map": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int32())),
        "truth": [True, False, None],
    }
)
FIRST = {
    "text": "你好",
    "messages": [{"role": "user", "content": "x"}],
    "number": 1,
    "float": 1.5,
    "big": "1.10",
    "day": "2024-01-02",
    "time": "2024-01-02T03:04:05",
    "raw": "00ff",
    "kind": "a",
    "map": {"k": 1},
    "truth": True,
}


def write(folder: Path, table: pa.Table, form: str) -> InputFile:
    path = folder / f"a.{'parquet' if form == 'parquet' else 'arrow'}"
    if form == "parquet":
        pq.write_table(table, path)
    else:
        new = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as file, new(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return InputFile(path, path.name)


def read(file: InputFile, **options: Any) -> list[Record | Bad]:
    rows = list((parquet if ".parquet" in file.name else arrow)(file, **options))
    assert [row.key for row in rows] == [str(number) for number in range(len(rows))]
    return rows


@pytest.mark.parametrize("form", ["parquet", "stream", "file"])
def test_values_are_those_of_json(tmp_path: Path, form: str) -> None:
    first, second, third = read(write(tmp_path, TABLE, form))
    assert isinstance(first, Record) and first.fields == FIRST
    assert isinstance(second, Record) and (second.fields["float"], second.fields["number"]) == ("nan", 2**63 - 1)
    assert isinstance(third, Record) and (third.fields["float"], third.fields["messages"]) == ("-inf", None)
    assert json.loads(json.dumps(first.fields)) == first.fields


@pytest.mark.parametrize("form", ["parquet", "stream", "file"])
def test_columns_are_chosen_and_unknown_ones_named(tmp_path: Path, form: str) -> None:
    file = write(tmp_path, TABLE, form)
    assert read(file, columns=["truth", "text"])[0] == Record("0", {"truth": True, "text": "你好"})
    with pytest.raises(DataError, match="no column 'txt'; did you mean 'text'"):
        read(file, columns=["txt"])


@pytest.mark.parametrize("form", ["stream", "file"])
def test_row_with_broken_text_is_bad_alone(tmp_path: Path, form: str) -> None:
    offsets = pa.py_buffer(b"".join(number.to_bytes(4, "little") for number in (0, 1, 3, 4)))
    texts = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"a\xff\xfeb")])
    first, bad, last = read(write(tmp_path, pa.table({"a": texts}), form))
    assert (first, last) == (Record("0", {"a": "a"}), Record("2", {"a": "b"}))
    assert isinstance(bad, Bad) and (bad.reason, bad.raw) == ("encoding", b"\xff\xfe")


@pytest.mark.parametrize("form", ["parquet", "stream", "file"])
def test_damaged_and_cut_off_files_are_named(tmp_path: Path, form: str) -> None:
    file = write(tmp_path, TABLE, form)
    data = file.path.read_bytes()
    file.path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"a\.(parquet|arrow): cannot be read"):
        read(file)
    file.path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        read(file)


def test_compressed_file_is_unpacked_first(tmp_path: Path) -> None:
    file = write(tmp_path, TABLE, "parquet")
    packed = tmp_path / "b.parquet.gz"
    packed.write_bytes(gzip.compress(file.path.read_bytes()))
    assert read(InputFile(packed, packed.name)) == read(file)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), form=st.sampled_from(["parquet", "stream", "file"]))
def test_flipped_bytes_give_rows_or_one_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, form: str) -> None:
    file = write(tmp_path_factory.getbasetemp(), TABLE.select(["text", "messages", "number"]), form)
    raw = bytearray(file.path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    file.path.write_bytes(raw)
    try:
        rows = read(file)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert len(rows) <= 3 or form != "parquet"


def test_dataset_of_a_folder_is_read_by_split_and_slice(tmp_path: Path) -> None:
    (tmp_path / "faq").mkdir()
    lines = "".join(json.dumps({"question": f"q{number}", "n": number}) + "\n" for number in range(40))
    (tmp_path / "faq" / "train.jsonl").write_text(lines, encoding="utf-8")
    result = ingest(tmp_path / "faq", format="dataset", out=tmp_path / "out", options={"split": "train[:10%]"})
    assert result.manifest["counts"]["prepare"]["kept"] == 4
    table = pa.ipc.open_stream(next(result.folder.rglob("*.arrow"))).read_all().to_pylist()
    assert table[3] == {"id": "faq.arrow#3", "source": "faq", "question": "q3", "n": "3"}


def test_saved_dataset_is_read_by_slices_joined(tmp_path: Path) -> None:
    import datasets

    rows = datasets.DatasetDict({name: datasets.Dataset.from_dict({"n": list(range(10))}) for name in ("train", "test")})
    rows.save_to_disk(tmp_path / "saved")
    options = {"split": "train[2:4]+test[-1:]"}
    result = ingest(tmp_path / "saved", format="dataset", out=tmp_path / "out", options=options)
    table = pa.ipc.open_stream(next(result.folder.rglob("*.arrow"))).read_all().to_pylist()
    assert [row["n"] for row in table] == ["2", "3", "9"]
    again = ingest(tmp_path / "saved", format="dataset", out=tmp_path / "out", options=options)
    assert again.manifest == result.manifest


def test_dataset_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: cannot be opened as a dataset: "):
        ingest(tmp_path / "nowhere", format="dataset", out=tmp_path / "out")


@pytest.mark.parametrize("form", ["stream", "file"])
def test_newer_layouts_of_arrow_are_read_as_the_older_ones(tmp_path: Path, form: str) -> None:
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array([b"\x01"]))
    views = {"list": pa.array([[b"\xff"], None], pa.list_view(pa.binary())), "text": pa.array(["v", None], pa.string_view())}
    table = pa.table({**views, "runs": runs, "nano": pa.array([1, None], pa.timestamp("ns", "UTC"))})
    rows = read(write(tmp_path, table, form))
    assert [row.fields for row in rows if isinstance(row, Record)] == [
        {"list": ["ff"], "text": "v", "runs": "01", "nano": "1970-01-01T00:00:00.000000001+00:00"},
        {"list": None, "text": None, "runs": "01", "nano": None},
    ]


@pytest.mark.parametrize("form", ["parquet", "stream"])
def test_date_past_the_calendar_is_bad_alone(tmp_path: Path, form: str) -> None:
    rows = read(write(tmp_path, pa.table({"a": ["x", "y"], "far": pa.array([2**52, 0], pa.timestamp("ms"))}), form))
    assert [row.reason if isinstance(row, Bad) else row.fields["a"] for row in rows] == ["encoding", "y"]


@pytest.mark.parametrize(
    ("split", "wanted"),
    [("train[:10%]", [0]), ("train[8:]+test", [8, 9, 100]), ("nowhere", "Unknown split"), ("train[:x]", "Unrecognized")],
)
def test_slices_of_a_saved_dataset_that_cannot_be_are_one_line(tmp_path: Path, split: str, wanted: Any) -> None:
    datasets = pytest.importorskip("datasets")
    parts = {"train": datasets.Dataset.from_dict({"n": list(range(10))}), "test": datasets.Dataset.from_dict({"n": [100]})}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    if isinstance(wanted, str):
        with pytest.raises(DataError, match=rf"saved: cannot be opened as a dataset: [^\n]*{wanted}[^\n]*$"):
            ingest(tmp_path / "saved", format="dataset", out=tmp_path / "out", options={"split": split})
    else:
        result = ingest(tmp_path / "saved", format="dataset", out=tmp_path / "out", options={"split": split})
        table = pa.ipc.open_stream((result.folder / "documents" / "data-00000-of-00001.arrow").read_bytes()).read_all()
        assert table.column("n").to_pylist() == [str(number) for number in wanted]
