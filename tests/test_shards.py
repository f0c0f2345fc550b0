"""Shards: what is written opens in `datasets`, reads without a copy, and shows every flipped bit."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata import storage
from sftdata.errors import DamagedError, DataError
from sftdata.schemas import FORMAT_VERSION
from sftdata.sealing import read_sealed, sealed
from sftdata.shards import (
    BATCH_ROWS,
    COLUMN_TYPES,
    MANIFEST,
    find_build,
    list_column,
    open_shards,
    shard_name,
    write_shard,
    write_split_metadata,
)

PADDING = ("input_ids", "labels", "attention_mask")
PACKED = ("input_ids", "labels", "seq_lengths", "loss_weights")


def batch_of(rows: list[list[int]], columns: tuple[str, ...]) -> pa.RecordBatch:
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    flat = np.array([token for row in rows for token in row], dtype=np.int32)
    values = {
        "input_ids": (flat, lengths),
        "labels": (np.where(flat % 2, flat, -100).astype(np.int32), lengths),
        "attention_mask": (np.ones(len(flat), dtype=np.int8), lengths),
        "seq_lengths": (lengths.astype(np.int32), np.ones(len(rows), dtype=np.int64)),
        "loss_weights": ((flat / 8).astype(np.float32), lengths),
    }
    arrays = [list_column(*values[name], COLUMN_TYPES[name].value_type) for name in columns]
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def write_split(folder: Path, shards: list[list[list[int]]], columns: tuple[str, ...]) -> dict:
    folder.mkdir(parents=True)
    names = [shard_name(number, len(shards)) for number in range(len(shards))]
    for name, rows in zip(names, shards, strict=True):
        batches = (batch_of(rows[first : first + BATCH_ROWS], columns) for first in range(0, len(rows), BATCH_ROWS))
        assert write_shard(folder / name, columns, batches) == storage.file_digest(folder / name)
    write_split_metadata(folder, columns, names, "abc")
    num_rows = sum(map(len, shards))
    return {"columns": list(columns), "rows": num_rows, "files": names, "bucket_rows": [num_rows]}


def write_build(folder: Path, shards: list[list[list[int]]], columns: tuple[str, ...] = PADDING) -> Path:
    splits = {name: write_split(folder / name, rows, columns) for name, rows in (("train", shards), ("validation", [[]]))}
    files = [
        {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "xxh3": storage.file_digest(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    storage.write_json(folder / "dataset_dict.json", {"splits": list(splits)})
    storage.write_bytes(folder / MANIFEST, sealed({"format_version": FORMAT_VERSION, "splits": splits, "files": files}))
    return folder


def rows_like(num_rows: int) -> list[list[int]]:
    return [list(range(row, row + row % 7)) for row in range(num_rows)]


@pytest.mark.parametrize("columns", [PADDING, PACKED])
def test_datasets_opens_a_written_build(tmp_path, columns):
    rows = rows_like(BATCH_ROWS + 10)
    write_build(tmp_path / "b", [rows[:1005], rows[1005:]], columns)
    opened = datasets.load_from_disk(str(tmp_path / "b"))
    assert {name: len(split) for name, split in opened.items()} == {"train": len(rows), "validation": 0}
    assert opened["train"].column_names == opened["validation"].column_names == list(columns)
    assert opened["train"]["input_ids"][:] == rows
    dtypes = {name: feature.feature.dtype for name, feature in opened["train"].features.items()}
    assert dtypes == {name: {"loss_weights": "float32", "attention_mask": "int8"}.get(name, "int32") for name in columns}
    alone = datasets.load_from_disk(str(tmp_path / "b" / "train"))
    assert alone[6] == opened["train"][6] and len(alone[6]["labels"]) == 6


@pytest.mark.parametrize("columns", [PADDING, PACKED])
def test_rows_come_back_in_order_over_batches_and_files(tmp_path, columns):
    rows = rows_like(BATCH_ROWS + 250)
    split = open_shards(write_build(tmp_path / "b", [rows[:7], rows[7:1200], [], rows[1200:]], columns)).splits["train"]
    assert split.packed == (columns is PACKED)
    for index in (0, 6, 7, 1006, 1007, 1199, 1200, len(rows) - 1):
        row = split.row(index)
        assert list(row) == list(columns) and row["input_ids"].tolist() == rows[index]
        assert row["labels"].tolist() == [token if token % 2 else -100 for token in rows[index]]
    assert split.lengths().tolist() == [len(row) for row in rows] and split.lengths().dtype == np.int64
    assert sum(len(batch["input_ids"][0]) - 1 for batch in split.flat_batches()) == len(rows)
    for index in (-1, len(rows)):
        with pytest.raises(IndexError, match=f"train has {len(rows)} rows; there is no row {index}"):
            split.row(index)
    empty = open_shards(tmp_path / "b").splits["validation"]
    assert empty.num_rows == 0 and empty.lengths().tolist() == []


def test_row_is_a_view_into_the_mapped_file(tmp_path):
    split = open_shards(write_build(tmp_path / "b", [rows_like(100)])).splits["train"]
    row, again = split.row(20), split.row(20)
    assert len(row["input_ids"]) == 6
    for name in PADDING:
        assert not row[name].flags.owndata and not row[name].flags.writeable
        assert np.shares_memory(row[name], again[name])
    before = pa.total_allocated_bytes()
    rows = [split.row(index) for index in range(100)]
    assert len(rows) == 100 and pa.total_allocated_bytes() == before


def test_split_travels_to_another_process_without_its_tokens(tmp_path):
    split = open_shards(write_build(tmp_path / "b", [[[1, 3, 5] * 10_000]])).splits["train"]
    split.row(0)
    data = pickle.dumps(split)
    assert len(data) < 1000
    copy = pickle.loads(data)
    assert copy == split and copy.row(0)["input_ids"].tolist() == [1, 3, 5] * 10_000


def test_one_flipped_bit_in_any_file_is_found(tmp_path):
    folder = write_build(tmp_path / "b", [rows_like(30), rows_like(5)])
    assert list(open_shards(folder).damaged_files()) == []
    names = [entry["path"] for entry in open_shards(folder).manifest["files"]]
    assert len(names) == 7 and any(name.endswith(".arrow") for name in names)
    for name in names:
        whole = (folder / name).read_bytes()
        for bit in (0, len(whole) * 4, len(whole) * 8 - 1):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            (folder / name).write_bytes(changed)
            assert list(open_shards(folder).damaged_files()) == [name]
        (folder / name).unlink()
        assert list(open_shards(folder).damaged_files()) == [name]
        (folder / name).write_bytes(whole)
    assert list(open_shards(folder).damaged_files()) == []


def test_every_flipped_bit_of_the_manifest_is_found(tmp_path):
    folder = write_build(tmp_path / "b", [rows_like(3)])
    whole = (folder / MANIFEST).read_bytes()
    for bit in range(0, len(whole) * 8, 5):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        (folder / MANIFEST).write_bytes(changed)
        with pytest.raises(DamagedError):
            open_shards(folder)
    (folder / MANIFEST).write_bytes(whole)
    assert open_shards(folder).tokenizer_folder == folder / "tokenizer"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "missing"),
        (b"{", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"[]", "does not match its own checksum"),
        (b"{}", "does not match its own checksum"),
        (sealed({"a": 1}).replace(b"1,", b"2,"), "does not match its own checksum"),
        (sealed({"a": 1}).replace(b" ", b""), "does not match its own checksum"),
    ],
)
def test_sealed_file_that_is_not_whole_is_damaged(tmp_path, data, message):
    path = tmp_path / "file.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DamagedError, match=f"^{path}: {message}"):
        read_sealed(path)


VALUES = st.integers() | st.floats(allow_nan=False) | st.lists(st.booleans())


@settings(deadline=None)
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), VALUES))
def test_sealed_values_come_back(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "sealed.json"
    value.pop("xxh3", None)
    path.write_bytes(sealed(value))
    read = read_sealed(path)
    assert list(read)[-1] == "xxh3" and len(read.pop("xxh3")) == 32
    assert read == value and json.loads(path.read_text())


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), max_size=20))
def test_list_column_holds_the_rows(rows):
    flat = np.array([value for row in rows for value in row], dtype=np.int32)
    column = list_column(flat, np.array([len(row) for row in rows], dtype=np.int64), pa.int32())
    assert column.to_pylist() == rows
    if len(flat):
        assert column.values.buffers()[1].address == flat.ctypes.data


def test_list_column_refuses_what_its_offsets_cannot_count():
    lengths = np.array([2**30, 2**30, 5], dtype=np.int64)
    flat = np.broadcast_to(np.int8(1), (int(lengths.sum()),))
    with pytest.raises(DataError, match=r"3 rows hold 2,147,483,653 tokens, more than one batch can; lower tokenize"):
        list_column(flat, lengths, pa.int8())
    with pytest.raises(DataError, match="2,147,483,653"):
        list_column(flat, lengths.astype(np.int32), pa.int8())
    with pytest.raises(ValueError, match="the rows hold 3 values, 2 were given"):
        list_column(np.zeros(2, dtype=np.int32), np.array([1, 2]), pa.int32())


def test_same_rows_give_the_same_bytes_and_failures_leave_none(tmp_path):
    digests = {write_shard(tmp_path / name, PADDING, [batch_of(rows_like(50), PADDING)]) for name in ("a", "b")}
    assert len(digests) == 1 and (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def failing():
        yield batch_of(rows_like(5), PADDING)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_shard(tmp_path / "c", PADDING, failing())
    with pytest.raises(pa.ArrowInvalid):
        write_shard(tmp_path / "c", PACKED, [batch_of(rows_like(5), PADDING)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_folder_with_one_build_stands_for_it(tmp_path):
    build = write_build(tmp_path / "shards" / "palace", [rows_like(3)])
    (tmp_path / "shards" / ".palace.old").mkdir()
    (tmp_path / "shards" / ".palace.old" / MANIFEST).write_text("{}")
    assert find_build(tmp_path / "shards") == find_build(build) == build
    assert open_shards(str(tmp_path / "shards")).folder == build
    write_build(tmp_path / "shards" / "garden", [rows_like(3)])
    with pytest.raises(DataError, match="holds 2 builds; name one of: garden, palace"):
        find_build(tmp_path / "shards")


@pytest.mark.parametrize(
    ("manifest", "error", "message"),
    [
        (None, DataError, "holds no finished build"),
        ({"format_version": FORMAT_VERSION + 1, "splits": {}}, DamagedError, "format version 2; this sftdata reads version 1"),
        ({"format_version": FORMAT_VERSION, "files": []}, DataError, "is no build of token shards"),
    ],
)
def test_folder_that_is_no_build_is_named(tmp_path, manifest, error, message):
    if manifest is not None:
        (tmp_path / MANIFEST).write_bytes(sealed(manifest))
    with pytest.raises(error, match=message):
        open_shards(tmp_path)
    with pytest.raises(DataError, match="no such folder; run `sftdata build` first"):
        open_shards(tmp_path / "none")


def test_shard_that_is_cut_or_gone_is_damaged(tmp_path):
    folder = write_build(tmp_path / "b", [rows_like(100)])
    path = folder / "train" / shard_name(0, 1)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DamagedError, match="not a readable Arrow stream"):
        open_shards(folder).splits["train"].row(0)
    path.unlink()
    with pytest.raises(DamagedError, match="missing"):
        open_shards(folder).splits["train"].row(0)
