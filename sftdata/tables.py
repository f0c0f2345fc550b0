"""The Arrow streams of the work folder: rows collected as columns, written in batches of bounded size, and read back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from sftdata import storage
from sftdata.errors import DamagedError

FLUSH_ROWS = 4096
FLUSH_SIZE = 32 << 20
"""Characters, bytes and list items past which a batch is written: it stays small, and far below the 2 GiB of a text column."""


class TableWriter:
    """Appends rows to an Arrow stream of one schema."""

    def __init__(self, writer: pa.RecordBatchStreamWriter, schema: pa.Schema) -> None:
        self._writer = writer
        self._schema = schema
        self._rows: list[Sequence[Any]] = []
        self._held = 0
        self.num_rows = 0

    def append(self, row: Sequence[Any]) -> None:
        """Add one row: a value a column, in the schema's order."""
        self._rows.append(row)
        self._held += _size(row)
        self.num_rows += 1
        if len(self._rows) >= FLUSH_ROWS or self._held >= FLUSH_SIZE:
            self.flush()

    def extend_columns(self, columns: Sequence[Any]) -> None:
        """Add many rows given as columns (lists or Arrow arrays of equal length)."""
        self.flush()
        num_rows = len(columns[0])
        if any(len(column) != num_rows for column in columns):
            raise ValueError(f"columns of unequal length: {[len(column) for column in columns]}")
        for rows in _row_ranges([column for column in columns if isinstance(column, list)], num_rows):
            self._write([column[rows] for column in columns])
        self.num_rows += num_rows

    def flush(self) -> None:
        """Write the rows that are still held in memory."""
        if self._rows:
            self._write(list(zip(*self._rows, strict=True)))
            self._rows.clear()
            self._held = 0

    def _write(self, columns: Sequence[Any]) -> None:
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, type=field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))


def _size(row: Iterable[Any]) -> int:
    return sum(len(value) for value in row if isinstance(value, str | bytes | list))


def _column_size(column: list[Any]) -> int:
    sized = isinstance(next((value for value in column if value is not None), None), str | bytes | list)
    return sum(len(value) for value in column if value) if sized else 0


def _row_ranges(lists: Sequence[list[Any]], num_rows: int) -> Iterator[slice]:
    """Yield ranges of rows whose values in the list columns stay together within the limit of a batch, or are one row."""
    if sum(map(_column_size, lists)) <= FLUSH_SIZE:
        if num_rows:
            yield slice(0, num_rows)
        return
    first = held = 0
    for row in range(num_rows):
        size = _size(column[row] for column in lists)
        if held and held + size > FLUSH_SIZE:
            yield slice(first, row)
            first, held = row, 0
        held += size
    if first < num_rows:
        yield slice(first, num_rows)


@contextmanager
def stream_writer(path: Path, schema: pa.Schema) -> Iterator[TableWriter]:
    """Open a stream of the work folder for appending; it appears under its name when it is complete."""
    with storage.create(path, durable=False) as file, pa.ipc.new_stream(pa.PythonFile(file, mode="w"), schema) as writer:
        table = TableWriter(writer, schema)
        yield table
        table.flush()


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of a stream, mapped into memory: a column that is not looked at is not read.

    Raises DamagedError where the file is missing or no Arrow stream.
    """
    yield from map_batches(path)[1]


def map_batches(path: Path) -> tuple[pa.Buffer, list[pa.RecordBatch]]:
    """Return a stream's bytes, mapped into memory, and the record batches in them. Raises DamagedError as `read_batches`."""
    try:
        with pa.memory_map(str(path), "r") as source:
            mapped = source.read_buffer()
        with pa.ipc.open_stream(mapped) as reader:
            return mapped, list(reader)
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: missing") from error
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(f"{path}: not a readable Arrow stream: {' '.join(str(error).split())}") from error
