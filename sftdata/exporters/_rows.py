"""The rows of shards for other programs: the same files under a second name, or one document a row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sftdata import progress, storage
from sftdata.exporters._job import Job, data_files, write_readme
from sftdata.shards import COLUMN_TYPES, Split, list_column, write_shard, write_split_metadata
from sftdata.tables import read_batches

DOCUMENT_COLUMNS = ("input_ids", "labels", "attention_mask")
"""What axolotl and LLaMA-Factory take as tokenized: exactly these. seq_lengths, of another length than the ids, stop both."""

Int32 = npt.NDArray[np.int32]


class Documents(NamedTuple):
    """The documents of one record batch, one after the other. ids, labels: (tokens,); lengths: (documents,)."""

    ids: Int32
    labels: Int32
    lengths: Int32


def read_documents(split: Split, file: str) -> Iterator[Documents]:
    """Yield the documents, or pieces of documents, of one shard, mapped into memory."""
    for batch in read_batches(split.folder / file):
        offsets, ids = _flat(batch, "input_ids")
        lengths = _flat(batch, "seq_lengths")[1] if split.packed else np.diff(offsets)
        yield Documents(ids, _flat(batch, "labels")[1], lengths)


def _flat(batch: pa.RecordBatch, name: str) -> tuple[Int32, Int32]:
    column = batch.column(name)
    offsets = column.offsets.to_numpy()
    return offsets, column.values.to_numpy()[offsets[0] : offsets[-1]]


def write_shards(job: Job, *, unpack: bool) -> dict[str, dict[str, int]]:
    """Write all splits below `data/` so that `load_from_disk` and `load_dataset` open it; returns rows and tokens by split.

    Rows stay as they are, as second names of the same files; or, with `unpack`, every document of a packed row gets its own.
    """
    folder = storage.make_folder(job.folder / "data")
    counts = {}
    for name, split in job.shards.splits.items():
        target = storage.make_folder(folder / name)
        unpacking = unpack and split.packed
        num_rows = _write_unpacked(split, target) if unpacking else _place(split, target)
        columns = DOCUMENT_COLUMNS if unpacking else split.columns
        write_split_metadata(target, columns, list(split.files), job.shards.manifest["fingerprint"][:16])
        counts[name] = {"rows": num_rows, "tokens": job.shards.manifest["splits"][name]["tokens"]}
    storage.write_json(folder / "dataset_dict.json", {"splits": list(job.shards.splits)})
    write_readme(folder, job.shards.manifest["name"], "Token shards exported by sftdata.", data_files(job, "{}/*.arrow"))
    return counts


def _place(split: Split, target: Path) -> int:
    for name in split.files:
        storage.link_or_copy(split.folder / name, target / name)
    progress.tick(split.num_rows)
    return split.num_rows


def _write_unpacked(split: Split, target: Path) -> int:
    num_rows = 0

    def batches(file: str) -> Iterator[pa.RecordBatch]:
        nonlocal num_rows
        for ids, labels, lengths in read_documents(split, file):
            num_rows += len(lengths)
            progress.tick(len(lengths))
            values: list[npt.NDArray[Any]] = [ids, labels, np.ones(len(ids), dtype=np.int8)]
            types = [COLUMN_TYPES[name].value_type for name in DOCUMENT_COLUMNS]
            arrays = [list_column(column, lengths, dtype) for column, dtype in zip(values, types, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, names=list(DOCUMENT_COLUMNS))

    for file in split.files:
        write_shard(target / file, DOCUMENT_COLUMNS, batches(file))
    return num_rows
