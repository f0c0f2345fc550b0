"""The folder of Arrow shards: writing a split's rows, and opening a finished build for reading.

A shard is an uncompressed Arrow IPC *stream* of list columns: `datasets.load_from_disk` maps it without a copy, and
`load_dataset` opens the same folder. Rows are never padded.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sftdata import storage
from sftdata.errors import DamagedError, DataError
from sftdata.mirroring import MANIFEST as MANIFEST
from sftdata.mirroring import mirror
from sftdata.remote import is_url
from sftdata.schemas import FORMAT_VERSION
from sftdata.sealing import read_sealed
from sftdata.tables import read_batches

BATCH_ROWS = 1000
"""Rows a record batch: fixed, since the bytes of a stream depend on it."""

COLUMN_TYPES = {
    "input_ids": pa.list_(pa.int32()),
    "labels": pa.list_(pa.int32()),
    "attention_mask": pa.list_(pa.int8()),
    "seq_lengths": pa.list_(pa.int32()),
    "loss_weights": pa.list_(pa.float32()),
}
"""Every column that a shard can have, in this order."""


def list_column(values: np.ndarray, lengths: np.ndarray, dtype: pa.DataType) -> pa.ListArray:
    """Return a list column from flat `values` and the `lengths` of its rows, without a copy of the values.

    Raises DataError for more values than the 32-bit offsets of a list column can count, which would wrap around.
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    num_values = int(ends[-1]) if len(ends) else 0
    if num_values != len(values):
        raise ValueError(f"the rows hold {num_values} values, {len(values)} were given")
    if num_values > np.iinfo(np.int32).max:
        raise DataError(f"{len(lengths)} rows hold {num_values:,} tokens, more than one batch can; lower tokenize.sequence_len")
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    offsets[1:] = ends
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, type=dtype))


def shard_name(index: int, num_shards: int) -> str:
    """Return the file name that `datasets` gives to shard `index` of `num_shards`."""
    return f"data-{index:05d}-of-{num_shards:05d}.arrow"


def write_shard(path: Path, columns: Iterable[str], batches: Iterable[pa.RecordBatch]) -> str:
    """Write one shard and return its xxh3-128."""
    schema = pa.schema([(name, COLUMN_TYPES[name]) for name in columns])
    with storage.create(path) as file, pa.ipc.new_stream(pa.PythonFile(file, mode="w"), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return file.hexdigest()


def write_split_metadata(folder: Path, columns: Iterable[str], names: list[str], fingerprint: str) -> None:
    """Write what `datasets.load_from_disk` asks for beside the shards of a split."""
    write_dataset_state(folder, {name: _list_feature(COLUMN_TYPES[name]) for name in columns}, names, fingerprint)


def write_dataset_state(folder: Path, features: Mapping[str, Any], names: list[str], fingerprint: str) -> None:
    """Write `state.json` and `dataset_info.json` for Arrow files with the given `datasets` features."""
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    storage.write_json(folder / "state.json", state)
    info = {"citation": "", "description": "", "features": dict(features), "homepage": "", "license": ""}
    storage.write_json(folder / "dataset_info.json", info)


def _list_feature(kind: pa.ListType) -> dict[str, Any]:
    return {"feature": {"dtype": _dtype_name(kind.value_type), "_type": "Value"}, "_type": "List"}


def _dtype_name(kind: pa.DataType) -> str:
    return {"float": "float32"}.get(str(kind), str(kind))


@dataclass(frozen=True)
class Split:
    """One split of a build: rows by number, read through a memory map."""

    name: str
    folder: Path
    columns: tuple[str, ...]
    num_rows: int
    files: tuple[str, ...]
    bucket_rows: tuple[int, ...]
    """Rows of each bucket in file order; the trainer reshuffles inside them and never across."""
    group_rows: int = 1
    """Consecutive rows of a bucket that are of similar length and stay together."""

    @property
    def packed(self) -> bool:
        """True where a row holds several segments, whose lengths are in `seq_lengths`."""
        return "seq_lengths" in self.columns

    def __getstate__(self) -> dict[str, Any]:
        """Leave the opened files behind: another process maps them anew, instead of receiving all their tokens."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _chunks(self) -> list[dict[str, tuple[np.ndarray, np.ndarray]]]:
        return [
            {name: _flat(batch.column(name)) for name in self.columns}
            for file in self.files
            for batch in read_batches(self.folder / file)
        ]

    @cached_property
    def _chunk_ends(self) -> list[int]:
        sizes = [len(chunk["input_ids"][0]) - 1 for chunk in self._chunks]
        ends: list[int] = np.cumsum(sizes, dtype=np.int64).tolist()
        return ends

    def row(self, index: int) -> dict[str, np.ndarray]:
        """Return row `index` as one array a column: views into the memory map, without a copy.

        Raises IndexError outside 0 ≤ index < num_rows.
        """
        if not 0 <= index < self.num_rows:
            raise IndexError(f"{self.name} has {self.num_rows} rows; there is no row {index}")
        number = bisect.bisect_right(self._chunk_ends, index)
        local = index - (self._chunk_ends[number - 1] if number else 0)
        return {
            name: values[offsets[local] : offsets[local + 1]] for name, (offsets, values) in self._chunks[number].items()
        }

    def lengths(self) -> np.ndarray:
        """Return the number of tokens of every row, int64."""
        pieces = [np.diff(chunk["input_ids"][0]).astype(np.int64) for chunk in self._chunks]
        return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)

    def flat_batches(self) -> Iterator[dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Yield (offsets, flat values) of every column, one record batch at a time."""
        yield from self._chunks


def _flat(column: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    return column.offsets.to_numpy(), column.values.to_numpy()


@dataclass(frozen=True)
class Shards:
    """A finished build."""

    folder: Path
    manifest: dict[str, Any]
    splits: dict[str, Split]

    @property
    def tokenizer_folder(self) -> Path:
        """The tokenizer that made the tokens; `AutoTokenizer.from_pretrained` opens it."""
        return self.folder / "tokenizer"

    def damaged_files(self) -> Iterator[str]:
        """Yield the path of every file that is missing or does not match its checksum in the manifest."""
        for entry in self.manifest["files"]:
            path = self.folder / entry["path"]
            if not path.is_file() or path.stat().st_size != entry["bytes"] or storage.file_digest(path) != entry["xxh3"]:
                yield entry["path"]


def find_build(path: Path) -> Path:
    """Return the folder of a build: `path` itself, or the only build inside it. Raises DataError."""
    if (path / MANIFEST).is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; run `sftdata build` first")
    builds = sorted(
        child for child in path.iterdir() if not child.name.startswith(".") and (child / MANIFEST).is_file()
    )
    if len(builds) == 1:
        return builds[0]
    if not builds:
        raise DataError(f"{path}: holds no finished build (no {MANIFEST})")
    names = ", ".join(build.name for build in builds)
    raise DataError(f"{path}: holds {len(builds)} builds; name one of: {names}")


def open_shards(path: str | Path) -> Shards:
    """Open a finished build for reading.

    A folder that is no build but holds exactly one stands for it. A build that was published at a URL is copied to this machine
    once. Raises DataError where there is none, DamagedError where its manifest is damaged or of a newer format.
    """
    folder = mirror(str(path)) if is_url(path) else find_build(Path(path))
    manifest = read_sealed(folder / MANIFEST)
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise DamagedError(f"{folder}: format version {version}; this sftdata reads version {FORMAT_VERSION}")
    if "splits" not in manifest:
        raise DataError(f"{folder}: is no build of token shards (an ingested folder?)")
    splits = {
        name: Split(
            name=name,
            folder=folder / name,
            columns=tuple(entry["columns"]),
            num_rows=entry["rows"],
            files=tuple(entry["files"]),
            bucket_rows=tuple(entry["bucket_rows"]),
            group_rows=entry.get("group_rows", 1),
        )
        for name, entry in manifest["splits"].items()
    }
    return Shards(folder, manifest, splits)
