"""CSV and TSV: every cell is text, every row has the header's fields or is quarantined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from itertools import chain
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
_PANDAS_FROM = 50
"""Rows from which a call of pandas (0.3 ms) is faster than splitting here."""


class _Layout(NamedTuple):
    names: list[str]
    delimiter: str
    encoding: str


@ingestor(suffixes=(".csv", ".tsv"), libraries=("pandas",))
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
    for item in rows:
        for part in _sound_parts(item, layout):
            if isinstance(part, BrokenRow):
                raw = original_bytes(part.text[:QUARANTINE_BYTES].rstrip("\r\n"), layout.encoding)
                yield Bad(str(number), part.reason, f"line {part.line}: {part.message}", raw)
                number += 1
                continue
            for cells in _cells(part, layout):
                yield Record(str(number), dict(zip(layout.names, cells, strict=True)))
                number += 1


def _sound_parts(item: Run | Row | BrokenRow, layout: _Layout) -> Iterator[Run | BrokenRow]:
    """Yield what can be read as it is, and the rows that cannot; a line of spaces alone is neither."""
    if isinstance(item, BrokenRow):
        yield item
    elif isinstance(item, Row) and item.num_fields != len(layout.names):
        if item.text.strip():
            message = f"{item.num_fields} fields, the header has {len(layout.names)}"
            yield BrokenRow("csv_fields", message, item.text, item.line)
    elif not undecodable(item.text):
        yield item if isinstance(item, Run) else Run(item.text, 1, item.line)
    elif isinstance(item, Row):
        yield BrokenRow("encoding", f"bytes that are not {layout.encoding}", item.text, item.line)
    else:
        for row in RowScan(iter((item.text,)), layout.delimiter).rows():
            row = row._replace(line=item.line + row.line - 1)
            yield from _sound_parts(row, layout)


def _cells(run: Run, layout: _Layout) -> Iterable[Sequence[str]]:
    """Return the cells of each row of a run, whose rows the scan has proven to have the same number of fields."""
    # pandas ends a cell at a NUL, and drops U+FEFF at the beginning of what it is given.
    if run.num_rows < _PANDAS_FROM or "\0" in run.text or run.text.startswith("\ufeff"):
        rows = RowScan(iter((run.text,)), layout.delimiter).rows()
        return (split_fields(row.text, layout.delimiter) for row in rows)
    import pandas as pd

    frame = pd.read_csv(
        StringIO(run.text),
        sep=layout.delimiter,
        header=None,
        names=range(len(layout.names)),
        index_col=False,
        dtype=object,  # as str, without a copy into Arrow and back
        keep_default_na=False,
        na_filter=False,
        skip_blank_lines=False,
        engine="c",
    )
    if len(frame) != run.num_rows:
        raise AssertionError(f"pandas read {len(frame)} rows where the scan counted {run.num_rows}")
    return zip(*(frame[column].tolist() for column in frame), strict=True)
