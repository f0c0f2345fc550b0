"""Arrow files: streams, as `datasets` saves them, and the file format with a footer (Feather)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from sftdata.errors import DamagedInputError
from sftdata.ingestors._arrow_rows import on_disk, records
from sftdata.ingestors._json_paths import picked
from sftdata.records import Bad, Record
from sftdata.registry import ingestor
from sftdata.sources import InputFile

_MAGIC = b"ARROW1"


@ingestor(suffixes=(".arrow", ".feather"), libraries=("pyarrow",))
def arrow(
    file: InputFile, *, columns: list[str] | None = None, fields: dict[str, str] | None = None
) -> Iterator[Record | Bad]:
    """Read the rows of an Arrow file: an IPC stream, as `datasets` saves it, or the file format; `columns` keeps some columns.

    Values and `fields` as in Parquet files. Nothing in a file is trusted: every batch is validated before its values are
    read. Raises DamagedInputError for a file that is damaged or cut off.
    """
    with on_disk(file) as path:
        yield from picked(records(file.place, _batches(path, file.place), columns), fields)


def _batches(path: Path, place: str) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path)) as stream:
        try:
            if stream.read(len(_MAGIC)) == _MAGIC:
                opened = pa.ipc.open_file(stream)
                yield from (opened.get_batch(number) for number in range(opened.num_record_batches))
                return
            stream.seek(0)
            yield from pa.ipc.open_stream(stream)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DamagedInputError(f"{place}: cannot be read as Arrow: {' '.join(str(error).split())}") from error
