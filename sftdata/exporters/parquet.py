"""Parquet: the rows as they are, every page with a checksum."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sftdata import progress, storage
from sftdata.exporters._job import Job, Outcome, copy_tokenizer, data_files, write_readme
from sftdata.shards import COLUMN_TYPES, Split
from sftdata.tables import read_batches

GROUP_VALUES = 4 << 20
"""Tokens past which a row group ends: fixed, since the bytes depend on it, and what bounds the memory."""

USAGE = """
```python
import datasets
import pyarrow.parquet

rows = datasets.load_dataset("PATH")["train"]
table = pyarrow.parquet.read_table("PATH/data/train-00000-of-00001.parquet", page_checksum_verification=True)
```

```sql
SELECT count(*), sum(len(input_ids)) FROM 'PATH/data/train-*.parquet'
```

Every page carries a CRC-32, which `page_checksum_verification` compares. `tokenizer/` is the tokenizer that made the tokens.
"""


def export_parquet(job: Job) -> Outcome:
    """Write one Parquet file a shard, zstd-compressed, with page checksums, in the layout of a dataset repository."""
    folder = storage.make_folder(job.folder / "data")
    for name, split in job.shards.splits.items():
        for number, file in enumerate(split.files):
            _write(split, file, folder / f"{name}-{number:05d}-of-{len(split.files):05d}.parquet")
    copy_tokenizer(job)
    write_readme(job.folder, f"{job.shards.manifest['name']} as Parquet", USAGE, data_files(job, "data/{}-*.parquet"))
    found = job.shards.manifest["splits"]
    return Outcome({name: {"rows": found[name]["rows"], "tokens": found[name]["tokens"]} for name in found}, [])


def _write(split: Split, file: str, path: Path) -> None:
    schema = pa.schema([(name, COLUMN_TYPES[name]) for name in split.columns])
    with (
        storage.create(path) as out,
        pq.ParquetWriter(
            pa.PythonFile(out, mode="w"), schema, compression="zstd", use_dictionary=False, write_page_checksum=True
        ) as writer,
    ):
        for table in _row_groups(split.folder / file, schema):
            writer.write_table(table, row_group_size=len(table))


def _row_groups(path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    held = 0
    for batch in read_batches(path):
        waiting.append(batch)
        held += len(batch.column("input_ids").values)
        if held >= GROUP_VALUES:
            yield pa.Table.from_batches(waiting, schema)
            waiting, held = [], 0
        progress.tick(len(batch))
    if waiting:
        yield pa.Table.from_batches(waiting, schema)
