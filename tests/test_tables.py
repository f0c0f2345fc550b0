"""Streams of the work folder: rows come back as written, in batches of bounded size, or not at all."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata import tables
from sftdata.errors import DamagedError
from sftdata.tables import FLUSH_ROWS, read_batches, stream_writer

SCHEMA = pa.schema([("id", pa.string()), ("tokens", pa.list_(pa.int32())), ("number", pa.int64())])
ROWS = st.lists(st.tuples(st.text(max_size=30), st.lists(st.integers(0, 9), max_size=5), st.integers(-9, 9)), max_size=30)


def rows_in(path):
    return [tuple(row.values()) for batch in read_batches(path) for row in batch.to_pylist()]


@settings(deadline=None)
@given(ROWS, ROWS)
def test_rows_and_columns_come_back_in_order(tmp_path_factory, first, second):
    path = tmp_path_factory.getbasetemp() / "stream.arrow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "FLUSH_SIZE", 40)
        with stream_writer(path, SCHEMA) as table:
            for row in first:
                table.append(row)
            ids, tokens, numbers = ([row[column] for row in second] for column in range(3))
            table.extend_columns([ids, tokens, pa.array(numbers, type=pa.int64())])
            for row in first:
                table.append(row)
            assert table.num_rows == 2 * len(first) + len(second)
    assert rows_in(path) == [*first, *second, *first]
    for batch in read_batches(path):
        sizes = [len(row["id"]) + len(row["tokens"]) for row in batch.to_pylist()]
        assert sum(sizes[:-1]) <= 40


def test_batches_hold_a_bounded_number_of_rows(tmp_path):
    with stream_writer(tmp_path / "rows", SCHEMA) as table:
        for number in range(FLUSH_ROWS + 5):
            table.append((str(number), [], number))
    assert [len(batch) for batch in read_batches(tmp_path / "rows")] == [FLUSH_ROWS, 5]


def test_texts_of_more_bytes_than_a_text_column_can_hold_are_split(tmp_path):
    text = "a" * (1 << 20)
    with stream_writer(tmp_path / "rows", pa.schema([("text", pa.string())])) as table:
        table.extend_columns([[text] * 100])
    batches = list(read_batches(tmp_path / "rows"))
    assert sum(map(len, batches)) == 100
    assert max(map(len, batches)) == 32


def test_columns_of_unequal_length_are_refused_and_nothing_is_left(tmp_path):
    lengths = r"columns of unequal length: \[2, 1, 2\]"
    with pytest.raises(ValueError, match=lengths), stream_writer(tmp_path / "rows", SCHEMA) as table:
        table.extend_columns([["a", "b"], [[1]], [1, 2]])
    assert list(tmp_path.iterdir()) == []


def test_stream_that_is_damaged_or_missing_is_named(tmp_path):
    with stream_writer(tmp_path / "rows", SCHEMA) as table:
        table.append(("a", [1], 2))
    whole = (tmp_path / "rows").read_bytes()
    for data in (b"", whole[:20], b"\xff" * 100):
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(DamagedError, match="bad: not a readable Arrow stream") as caught:
            list(read_batches(tmp_path / "bad"))
        assert "\n" not in str(caught.value)
    with pytest.raises(DamagedError, match="none: missing"):
        list(read_batches(tmp_path / "none"))
