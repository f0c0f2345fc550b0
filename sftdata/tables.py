"""Writing the Arrow streams of the work folder: rows collected as columns, flushed in batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from sftdata import storage

FLUSH_ROWS = 4096


class TableWriter:
    """Appends rows to an Arrow stream of one schema."""

    def __init__(self, writer: pa.RecordBatchStreamWriter, schema: pa.Schema) -> None:
        self._writer = writer
        self._schema = schema
        self._rows: list[Sequence[Any]] = []
        self.num_rows = 0

    def append(self, row: Sequence[Any]) -> None:
        """Add one row: a value a column, in the schema's order."""
        self._rows.append(row)
        self.num_rows += 1
        if len(self._rows) >= FLUSH_ROWS:
            self.flush()

    def extend_columns(self, columns: Sequence[Any]) -> None:
        """Add many rows given as columns (lists or Arrow arrays of equal length)."""
        self.flush()
        arrays = [
            column if isinstance(column, pa.Array) else pa.array(column, type=field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        if len(arrays[0]):
            self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
            self.num_rows += len(arrays[0])

    def flush(self) -> None:
        """Write the rows that are still held in memory."""
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, type=field.type) for column, field in zip(columns, self._schema, strict=True)]
            self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
            self._rows.clear()


@contextmanager
def stream_writer(path: Path, schema: pa.Schema) -> Iterator[TableWriter]:
    """Open a stream of the work folder for appending; it appears under its name when it is complete."""
    with storage.create(path, durable=False) as file:
        with pa.ipc.new_stream(pa.PythonFile(file, mode="w"), schema) as writer:
            table = TableWriter(writer, schema)
            yield table
            table.flush()


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of a stream, mapped into memory: a column that is not looked at is not read."""
    with pa.memory_map(str(path), "r") as source, pa.ipc.open_stream(source) as reader:
        yield from reader
