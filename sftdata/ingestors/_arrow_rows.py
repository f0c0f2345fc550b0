"""Rows of Arrow tables as records: every value as JSON has it, and rows that hold broken text named."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from sftdata.errors import DamagedInputError, DataError, suggest
from sftdata.records import Bad, Record
from sftdata.sources import COMPRESSED, InputFile

BATCH_ROWS = 1000
"""Rows that are turned into records together."""

Convert = Callable[[Any], Any]


def records(place: str, batches: Iterable[pa.RecordBatch], columns: list[str] | None) -> Iterator[Record | Bad]:
    """Yield the rows of batches, numbered from 0; `columns`: the ones to keep, None: all.

    Text stays text, numbers keep their value (NaN and infinite ones, and decimals, as text), binary values become hexadecimal
    digits, dates and times ISO 8601 text, structs objects and lists arrays. A row with text that is not UTF-8 is bad. Raises
    DataError for an unknown column, a doubled one, and data that is damaged.
    """
    number = 0
    try:
        for batch in batches:
            for start in range(0, max(len(batch), 1), BATCH_ROWS):
                part = _chosen(place, batch.slice(start, BATCH_ROWS), columns)
                yield from _rows(part, number)
                number += len(part)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DamagedInputError(f"{place}: cannot be read: {_one_line(error)}") from error


def _chosen(place: str, batch: pa.RecordBatch, columns: list[str] | None) -> pa.RecordBatch:
    names = batch.schema.names
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise DataError(f"{place}: has two columns {double!r}")
    if columns is None:
        return batch
    if not columns or len(set(columns)) < len(columns):
        raise DataError(f"{place}: columns: {columns}; name the columns to keep, each once")
    unknown = next((name for name in columns if name not in names), None)
    if unknown is not None:
        raise DataError(f"{place}: no column {unknown!r}{suggest(unknown, names)}")
    return batch.select(columns)


def _rows(batch: pa.RecordBatch, number: int) -> Iterator[Record | Bad]:
    try:
        batch.validate(full=True)  # before anything follows its offsets
        columns = [_values(batch.column(place)) for place in range(batch.num_columns)]
    except (pa.ArrowException, ValueError, OverflowError):  # broken text, offsets that lead nowhere, a date past year 9999
        if len(batch) == 1:
            yield Bad(str(number), "encoding", f"row {number}: text that is not UTF-8, or a value out of range", _raw(batch))
            return
        half = len(batch) // 2
        yield from _rows(batch.slice(0, half), number)
        yield from _rows(batch.slice(half), number + half)
        return
    names = batch.schema.names
    for offset in range(len(batch)):
        yield Record(str(number + offset), {name: column[offset] for name, column in zip(names, columns, strict=True)})


def _raw(batch: pa.RecordBatch) -> bytes:
    """Return the bytes of the row's texts, as far as they can be got at."""
    found = []
    for column in batch.columns:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            raw = column.view(pa.binary() if pa.types.is_string(column.type) else pa.large_binary())
            with suppress(pa.ArrowException):
                raw.validate(full=True)  # whether its offsets lead anywhere
                found += raw.to_pylist()
    return b"\n".join(value for value in found if value)


def _values(column: pa.Array) -> list[Any]:
    convert = _converter(column.type)
    values: list[Any] = column.to_pylist()
    return values if convert is None else [value if value is None else convert(value) for value in values]


_LISTS = (
    pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view, pa.types.is_large_list_view
)  # fmt: skip
_BINARIES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_PLAIN = (*_TEXTS, pa.types.is_boolean, pa.types.is_integer, pa.types.is_null)


def _converter(kind: pa.DataType) -> Convert | None:
    """Return what makes a value of a type one of JSON; None where it is one."""
    types = pa.types
    if isinstance(kind, pa.ExtensionType):
        return _converter(kind.storage_type)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _converter(kind.value_type)
    if types.is_struct(kind):
        return _object([(field.name, _converter(field.type)) for field in kind])
    if types.is_map(kind):
        return _map(_converter(kind.key_type), _converter(kind.item_type))
    if any(is_list(kind) for is_list in _LISTS):
        return _list(_converter(kind.value_type))
    if types.is_floating(kind):
        return lambda value: value if value - value == 0 else str(value)
    if any(is_binary(kind) for is_binary in _BINARIES):
        return lambda value: value.hex()
    return None if any(is_plain(kind) for is_plain in _PLAIN) else _text


def _object(fields: list[tuple[str, Convert | None]]) -> Convert:
    return lambda value: {name: _applied(convert, value[name]) for name, convert in fields}


def _list(convert: Convert | None) -> Convert | None:
    return None if convert is None else lambda value: [_applied(convert, item) for item in value]


def _map(key: Convert | None, item: Convert | None) -> Convert:
    return lambda value: {str(_applied(key, name)): _applied(item, found) for name, found in value}


def _applied(convert: Convert | None, value: Any) -> Any:
    return value if convert is None or value is None else convert(value)


def _text(value: Any) -> str:
    """Return a date or time as ISO 8601 text; any other value as Python prints it."""
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


@contextmanager
def on_disk(file: InputFile) -> Iterator[Path]:
    """Give the path of a file's bytes: its own, or a temporary one for a file that is compressed or in an archive."""
    if not file.member and file.path.suffix.lower() not in COMPRESSED:
        yield file.path
        return
    with tempfile.TemporaryDirectory(prefix="sftdata-unpacked-") as folder:
        path = Path(folder) / "unpacked"
        with file.open() as packed, open(path, "wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        yield path
