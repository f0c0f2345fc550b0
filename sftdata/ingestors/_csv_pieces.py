"""A large CSV file cut into pieces at row borders: found by reading its structure alone, as the reader itself would."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from functools import partial

from sftdata.ingestors._csv_cells import MAX_FIELD_LINES
from sftdata.ingestors._csv_rows import BrokenRow, Row, RowScan, Run
from sftdata.ingestors._encoding import BLOCK
from sftdata.sources import InputFile, Piece

PIECE_BYTES = 4 << 20
"""A file is cut at the first row border after so many bytes: whatever the number of workers."""

_LATIN = "latin-1"
"""Reads every byte as one character: places in the text are places in the file."""


def cut(file: InputFile, delimiter: str, num_fields: int, codec: str, *, skip_header: bool) -> list[Piece]:
    """Return the pieces of a file whose structure is ASCII; none where its rows could depend on where it is cut.

    That is where a quoted field is as long as the limits of the reader, which count characters, not bytes.
    """
    with file.open() as stream:
        bom = len(codecs.BOM_UTF8) if stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
    with file.open() as stream:
        stream.read(bom)
        blocks = iter(partial(stream.read, BLOCK), b"")
        scan = RowScan((block.decode(_LATIN) for block in blocks), delimiter, with_cells=False)
        if skip_header:
            next(scan.rows(), None)
        pieces = list(_pieces(scan, bom, num_fields, codec))
    if scan.is_long or not pieces:
        return []
    # The scan puts a line end behind a last line that has none.
    last = pieces.pop()
    return [*pieces, last._replace(length=min(last.length, file.path.stat().st_size - last.start))]


def _pieces(scan: RowScan, offset: int, num_fields: int, codec: str) -> Iterator[Piece]:
    start, first_record, first_line = scan.num_read, 0, scan.num_lines
    num_records, last_broken = 0, 0
    for items in scan.steps(num_fields):
        for item in items:
            if isinstance(item, BrokenRow):
                last_broken = max(last_broken, item.line)
            num_records += _num_records(item, num_fields, codec)
        # How a broken row is described depends on the lines that follow it, up to the limit: they stay together with it.
        if scan.num_read - start >= PIECE_BYTES and (not last_broken or scan.num_lines > last_broken + MAX_FIELD_LINES + 1):
            yield Piece(offset + start, scan.num_read - start, first_record, first_line)
            start, first_record, first_line = scan.num_read, num_records, scan.num_lines
    if scan.num_read > start:
        yield Piece(offset + start, scan.num_read - start, first_record, first_line)


def _num_records(item: Run | Row | BrokenRow, num_fields: int, codec: str) -> int:
    """Return how many records the reader makes of an item: a line of spaces alone is none, unless the table is that narrow."""
    if isinstance(item, Run):
        return item.num_rows
    if isinstance(item, BrokenRow) or item.num_fields == num_fields:
        return 1
    return int(bool(item.text.encode(_LATIN).decode(codec, "surrogateescape").strip()))
