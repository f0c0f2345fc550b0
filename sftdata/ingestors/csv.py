"""CSV and TSV: every cell is text, every row has the header's fields or is quarantined."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count, repeat
from typing import Any, NamedTuple

from sftdata.errors import DamagedInputError, DataError, RecipeError
from sftdata.ingestors import _csv_pieces
from sftdata.ingestors._csv_rows import BrokenRow, Row, RowScan, Run, split_fields
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
from sftdata.sources import InputFile, Piece, bare_suffix

_DELIMITERS = (",", ";", "\t", "|")
_PLAIN_ENCODINGS = ("utf-8", "cp1252")
"""Encodings in which an ASCII byte is never part of another character."""
_HEAD_CHARS = 1 << 16
"""Characters by which the delimiter is told."""


class _Layout(NamedTuple):
    names: list[str]
    delimiter: str
    encoding: str


def sniff(
    file: InputFile,
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool = True,
    columns: list[str] | None = None,
) -> dict[str, Any]:
    """Return encoding, delimiter and columns of a file; raises as `csv_` does."""
    codec = stream_encoding(file) or (text_encoding(encoding) if encoding else detect_encoding(file))
    separator = _delimiter(file, delimiter, codec)
    with file.open() as stream:
        first = next(RowScan(decode_stream(stream, codec), separator).rows(), None)
    if first is None:
        raise DataError(f"{file.path}: is empty")
    return {"encoding": codec, "delimiter": separator, "columns": _names(file, first, separator, header, columns)}


def row_pieces(file: InputFile, **options: Any) -> list[Piece]:
    """Return the pieces of a large CSV file; none for a small or compressed one, and where bytes do not tell characters."""
    plain = not file.member and bare_suffix(file.name) == file.path.suffix.lower()
    if not plain or file.path.stat().st_size < 2 * _csv_pieces.PIECE_BYTES:
        return []
    layout = sniff(file, **options)
    codec, separator = layout["encoding"], layout["delimiter"]
    # In GB18030 the second byte of a character may look like any ASCII character from 0 on, the usual delimiters aside.
    if not (codec in _PLAIN_ENCODINGS and separator.isascii()) and not (codec == "gb18030" and separator in ",;\t"):
        return []
    pieces = _csv_pieces.cut(file, separator, len(layout["columns"]), codec, skip_header=options.get("header", True))
    return [piece._replace(layout=layout) for piece in pieces]


@ingestor(suffixes=(".csv", ".tsv"), libraries=("numpy",), pieces=row_pieces, sniff=sniff)
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
    piece = file.piece or Piece(0, 0, 0, 0)
    found = piece.layout or file.layout
    found = found or sniff(file, delimiter=delimiter, encoding=encoding, header=header, columns=columns)
    layout = _Layout(found["columns"], found["delimiter"], found["encoding"])
    with file.open() as stream:
        damage: list[DamagedInputError] = []
        text = _until_damage(decode_stream(stream, layout.encoding, begins=file.piece is None), damage)
        scan = RowScan(text, layout.delimiter, num_lines=piece.first_line)
        if header and not file.piece:
            next(scan.rows())
        yield from _records(scan.runs(len(layout.names)), layout, piece.first_record)
    if damage:
        raise damage[0]


def _until_damage(pieces: Iterator[str], damage: list[DamagedInputError]) -> Iterator[str]:
    """Yield a text up to the last line end before its file is damaged, and put the error into `damage`."""
    held = ""
    try:
        for piece in pieces:
            yield held
            held = piece
    except DamagedInputError as error:
        damage.append(error)
        held = held[: held.rfind("\n") + 1]
    yield held


def _delimiter(file: InputFile, delimiter: str | None, codec: str) -> str:
    if delimiter is None:
        return "\t" if bare_suffix(file.name) == ".tsv" else _sniff_delimiter(_head(file, codec))
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


def _records(rows: Iterable[Run | Row | BrokenRow], layout: _Layout, number: int) -> Iterator[Record | Bad]:
    """Yield what becomes of rows, numbered from `number`."""
    width = len(layout.names)
    for item in rows:
        if isinstance(item, Run):
            cells = zip(*[iter(item.cells)] * width, strict=True)
            fields = map(dict, map(zip, repeat(layout.names), cells))
            # Record(…) for each, without a step of the interpreter
            yield from map(tuple.__new__, repeat(Record), zip(map(str, count(number)), fields, strict=False))
            number += item.num_rows
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


def _sniff_delimiter(head: str) -> str:
    """Return the delimiter that cuts the head of a file into rows of the most even width; a comma where none does.

    Only a delimiter that stands in the first row counts. `head` should end at a line end.
    """
    return max(_DELIMITERS, key=lambda delimiter: _evenness(head, delimiter))


def _evenness(head: str, delimiter: str) -> tuple[float, int]:
    rows = list(RowScan(iter((head,)), delimiter).rows())
    widths = [row.num_fields for row in rows if isinstance(row, Row)]
    if not widths or widths[0] < 2:
        return 0.0, 0
    return widths.count(widths[0]) / len(rows), widths[0]
