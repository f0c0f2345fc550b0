"""CSV and TSV: every cell is text, every row has the header's fields or is quarantined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, count, repeat
from typing import NamedTuple

from sftdata.errors import DataError, RecipeError
from sftdata.ingestors._csv_rows import BrokenRow, Row, RowScan, Run, sniff_delimiter, split_fields
from sftdata.ingestors._encoding import (
    decode_stream,
    detect_encoding,
    original_bytes,
    stream_encoding,
    text_encoding,
    undecodable,
)
from sftdata.records import Bad, Record
from sftdata.registry import ingestor
from sftdata.schemas import QUARANTINE_BYTES
from sftdata.sources import InputFile, bare_suffix

_HEAD_CHARS = 1 << 16
"""Characters by which the delimiter is told."""


class _Layout(NamedTuple):
    names: list[str]
    delimiter: str
    encoding: str


@ingestor(suffixes=(".csv", ".tsv"), libraries=("numpy",))
def csv_(
    file: InputFile,
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool = True,
    columns: list[str] | None = None,
) -> Iterator[Record | Bad]:
    """Read CSV or TSV (RFC 4180) with every cell as text: 007, NA and null stay as they are, an empty cell is "".

    `delimiter`: one character; by default a tab for .tsv, else whichever of , ; tab | fits the head. `encoding`: by default it
    is found from the whole file (byte order mark, UTF-8, GB18030, cp1252). `header`: the first row names the fields. `columns`:
    the names, instead of the header's or, with `header: false`, for a file without one. A row is bad for another number of
    fields, bytes outside the encoding, and a quote that is never closed (or spans 1,000 lines or 8 MiB); reading goes on at the
    next line. Raises DataError for an empty file and for a header with empty or double names.
    """
    codec = stream_encoding(file) or (text_encoding(encoding) if encoding else detect_encoding(file))
    separator = _delimiter(file, delimiter, codec)
    with file.open() as stream:
        scan = RowScan(decode_stream(stream, codec), separator)
        first = next(scan.rows(), None)
        if first is None:
            raise DataError(f"{file.path}: is empty")
        names = _names(file, first, separator, header, columns)
        rows = scan.runs(len(names))
        yield from _records(rows if header else chain((first,), rows), _Layout(names, separator, codec))


def _delimiter(file: InputFile, delimiter: str | None, codec: str) -> str:
    if delimiter is None:
        return "\t" if bare_suffix(file.name) == ".tsv" else sniff_delimiter(_head(file, codec))
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise RecipeError(f"delimiter {delimiter!r} is not one character other than a quote or a line end")
    return delimiter


def _head(file: InputFile, codec: str) -> str:
    """Return the beginning of the text, cut at a line end where it is long."""
    with file.open() as stream:
        head = next(decode_stream(stream, codec))
    cut = head.rfind("\n", 0, _HEAD_CHARS) + 1
    return head[: cut or _HEAD_CHARS] if len(head) > _HEAD_CHARS else head


def _names(file: InputFile, first: Row | BrokenRow, delimiter: str, header: bool, columns: list[str] | None) -> list[str]:
    if not header and columns is None:
        raise RecipeError("header: false needs the names of the fields: columns: [...]")
    if header and isinstance(first, BrokenRow):
        raise DataError(f"{file.path}: line {first.line}: the header cannot be read: {first.message}")
    names = columns if columns is not None else split_fields(first.text, delimiter)
    if header and isinstance(first, Row) and first.num_fields != len(names):
        raise DataError(f"{file.path}: the header has {first.num_fields} fields, columns names {len(names)}")
    cure = "; name the fields with columns: [...]"
    if any(undecodable(name) for name in names):
        raise DataError(f"{file.path}: the header is not text in the encoding; name the right one with encoding: NAME")
    unnamed = next((place for place, name in enumerate(names, 1) if not name.strip()), None)
    if unnamed is not None:
        raise DataError(f"{file.path}: field {unnamed} of the header has no name{cure}")
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise DataError(f"{file.path}: the header names {double!r} twice{cure}")
    return names


def _records(rows: Iterable[Run | Row | BrokenRow], layout: _Layout) -> Iterator[Record | Bad]:
    number = 0
    width = len(layout.names)
    for item in rows:
        if isinstance(item, Run):
            cells = zip(*[iter(item.cells)] * width, strict=True)
            fields = map(dict, map(zip, repeat(layout.names), cells))
            # Record(…) for each, without a step of the interpreter
            yield from map(tuple.__new__, repeat(Record), zip(map(str, count(number)), fields, strict=False))
            number += len(item.cells) // width
            continue
        row = _judged(item, layout)
        if isinstance(row, BrokenRow):
            raw = original_bytes(row.text[:QUARANTINE_BYTES].rstrip("\r\n"), layout.encoding)
            yield Bad(str(number), row.reason, f"line {row.line}: {row.message}", raw)
            number += 1
        elif row is not None:
            yield Record(str(number), dict(zip(layout.names, row, strict=True)))
            number += 1


def _judged(row: Row | BrokenRow, layout: _Layout) -> list[str] | BrokenRow | None:
    """Return the cells of a row, or what is wrong with it; a line of spaces alone that is no row of the table is nothing."""
    if isinstance(row, BrokenRow):
        return row
    if row.num_fields != len(layout.names):
        message = f"{row.num_fields} fields, the header has {len(layout.names)}"
        return BrokenRow("csv_fields", message, row.text, row.line) if row.text.strip() else None
    if undecodable(row.text):
        return BrokenRow("encoding", f"bytes that are not {layout.encoding}", row.text, row.line)
    return split_fields(row.text, layout.delimiter)
