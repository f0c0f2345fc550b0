"""Megatron-LM: its indexed datasets, a pair of `.bin` and `.idx` a split, one document a sequence.

The index, version 1, little-endian, as megatron/core/datasets/indexed_dataset.py of NVIDIA/Megatron-LM writes and reads it:

    9 bytes   MMIDIDX, NUL, NUL
    uint64    version: 1
    uint8     type of a token in `.bin`: 1 uint8, 4 int32, 8 uint16
    uint64    n: the number of sequences
    uint64    m: the number of document borders
    int32[n]  tokens of each sequence
    int64[n]  where each begins in `.bin`, in bytes
    int64[m]  the sequence with which each document begins, and n at the end

`.bin` holds the tokens of all sequences, one after the other: uint16 where the vocabulary is below 65,500, else int32.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from sftdata import progress, storage
from sftdata.exporters._job import Job, Outcome, copy_tokenizer, write_readme
from sftdata.exporters._rows import Documents, Int32, read_documents
from sftdata.schemas import IGNORE_INDEX
from sftdata.shards import Split

HEADER = b"MMIDIDX\x00\x00"
VERSION = 1
CODES: dict[str, int] = {"uint8": 1, "int32": 4, "uint16": 8}
UINT16_VOCABULARY = 65_500
"""The size from which Megatron-LM takes int32 (`DType.optimal_dtype`)."""

USAGE = """
```sh
--per-split-data-args-path data_args.json
--tokenizer-type HuggingFaceTokenizer --tokenizer-model tokenizer
--reset-position-ids --reset-attention-mask
```

Run in this folder, or make the paths in `data_args.json` absolute. A document of the build is a document of the index.
Megatron-LM's `GPTDataset` trains on every token and cuts the stream of documents at the sequence length. Which tokens the build
trains is in `SPLIT_loss_mask.bin` and `.idx`, of the same shape: 1 is trained, 0 is not; a data loader has to read it on
purpose. Where the two files are absent, every token but the first of each document is trained.
"""


def export_megatron(job: Job) -> Outcome:
    """Write the documents as Megatron-LM's indexed datasets, with the loss mask beside them where not all is trained."""
    size = int(job.shards.manifest["tokenizer"]["vocab_size"])
    dtype = np.dtype("<u2" if size < UINT16_VOCABULARY else "<i4")
    counts, notes, prefixes = {}, [], {}
    for name, split in job.shards.splits.items():
        num_untrained = _write_data(job, f"{name}_document", split, dtype, lambda found: found.ids)
        _write_index(job, f"{name}_document", split, dtype)
        if num_untrained:
            mask = np.dtype("u1")
            _write_data(job, f"{name}_loss_mask", split, mask, lambda found: (found.labels != IGNORE_INDEX).astype(np.int32))
            _write_index(job, f"{name}_loss_mask", split, mask)
            notes.append(f"{name}: {num_untrained:,} tokens are not trained; Megatron-LM trains them unless it reads the mask")
        prefixes[{"validation": "valid"}.get(name, name)] = ["1.0", f"{name}_document"]
        found = job.shards.manifest["splits"][name]
        counts[name] = {"documents": found["segments"], "tokens": found["tokens"], "untrained_tokens": num_untrained}
    storage.write_json(job.folder / "data_args.json", prefixes)
    copy_tokenizer(job)
    write_readme(job.folder, f"{job.shards.manifest['name']} for Megatron-LM", USAGE)
    return Outcome(counts, notes)


def _documents(split: Split) -> Iterator[Documents]:
    for file in split.files:
        yield from read_documents(split, file)


def _write_data(
    job: Job, name: str, split: Split, dtype: np.dtype[np.generic], values: Callable[[Documents], Int32]
) -> int:
    """Write a `.bin`; returns how many tokens are not trained, the first ones of documents aside."""
    num_untrained = 0
    with storage.create(job.folder / f"{name}.bin") as file:
        for found in _documents(split):
            file.write(np.ascontiguousarray(values(found).astype(dtype)).data)
            progress.tick(len(found.lengths))
            num_untrained += int(np.count_nonzero(found.labels == IGNORE_INDEX)) - int(np.count_nonzero(found.lengths))
    return num_untrained


def _write_index(job: Job, name: str, split: Split, dtype: np.dtype[np.generic]) -> None:
    """Write an `.idx` in passes over the lengths, so that no number of documents fills the memory."""
    num_documents = sum(len(found.lengths) for found in _documents(split))
    with storage.create(job.folder / f"{name}.idx") as file:
        file.write(HEADER + struct.pack("<QBQQ", VERSION, CODES[dtype.name], num_documents, num_documents + 1))
        for found in _documents(split):
            file.write(np.ascontiguousarray(found.lengths.astype("<i4")).data)
        position = 0
        for found in _documents(split):
            ends: npt.NDArray[np.int64] = np.cumsum(found.lengths, dtype=np.int64)
            starts = position + (ends - found.lengths) * dtype.itemsize
            file.write(starts.astype("<i8").data)
            position += int(ends[-1]) * dtype.itemsize if len(ends) else 0
        for first in range(0, num_documents + 1, 1 << 16):
            file.write(np.arange(first, min(first + (1 << 16), num_documents + 1), dtype="<i8").data)
