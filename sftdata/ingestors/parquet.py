"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from sftdata.errors import DamagedInputError
from sftdata.ingestors._arrow_rows import BATCH_ROWS, on_disk, records
from sftdata.ingestors._json_paths import picked
from sftdata.records import Bad, Record
from sftdata.registry import ingestor
from sftdata.sources import InputFile


@ingestor(suffixes=(".parquet",), libraries=("pyarrow",))
def parquet(
    file: InputFile, *, columns: list[str] | None = None, fields: dict[str, str] | None = None
) -> Iterator[Record | Bad]:
    """Read the rows of a Parquet file; `columns` keeps some of its columns, `fields` takes fields by paths.

    Numbers, truth values, texts, lists and structs stay what they are; dates and times become ISO 8601 text, decimals text,
    binary values hexadecimal digits. A row with text that is not UTF-8 is bad. Raises DamagedInputError.
    """
    import pyarrow.parquet as pq

    with on_disk(file) as path:
        try:
            opened = pq.ParquetFile(path, page_checksum_verification=True)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DamagedInputError(f"{file.place}: cannot be read as Parquet: {' '.join(str(error).split())}") from error
        with opened:
            known = opened.schema_arrow.names
            wanted = columns if columns is None or set(columns) <= set(known) else None
            yield from picked(records(file.place, opened.iter_batches(BATCH_ROWS, columns=wanted), columns), fields)
