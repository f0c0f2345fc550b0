"""Acceptance: which tokenized rows are trained on, and how much of those that are too long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sftdata import truncation
from sftdata.entries import TOKENIZED_FILE
from sftdata.errors import DataError
from sftdata.ledger import Entry
from sftdata.tables import TableWriter, read_batches
from sftdata.truncation import Kept, LongRows, Runs

Int64 = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer[Any]]
Bool = npt.NDArray[np.bool_]


class Rows(NamedTuple):
    """What Plan knows of every tokenized row. All (n,); digest (n, 2). weighted: a token has a weight other than 1."""

    part: npt.NDArray[np.int32]
    item: npt.NDArray[np.int32]
    length: Int64
    trained: npt.NDArray[np.int32]
    split: npt.NDArray[np.int8]
    category: npt.NDArray[np.int32]
    digest: npt.NDArray[np.uint64]
    weighted: Bool


class Samples(NamedTuple):
    """What is mixed and packed, ascending by row: whole rows, and what is left of those that were shortened."""

    row: Int64
    """(s,) several for a row that was split."""
    number: Int64
    """(s,) of the row's samples, from 0."""
    length: Int64
    """(s,)"""
    first_range: Int64
    """(s,) the first of a shortened row's ranges; −1 for a whole row."""
    num_ranges: Int64
    """(s,)"""
    starts: Int64
    """(r,) ranges of tokens in their row."""
    lengths: Int64

    def pieces(self, sample: Int64, start: Integers, length: Integers) -> tuple[Int64, Integers, Integers, Bool]:
        """Return where runs of tokens of samples lie in their rows: (which run, start, length, joined to the piece before).

        sample, start, length: (m,), counted in what is left of the row.
        """
        if not len(self.starts):
            return np.arange(len(sample)), start, length, np.zeros(len(sample), dtype=bool)
        counts = np.maximum(self.num_ranges[sample], 1)
        run = np.repeat(np.arange(len(sample)), counts)
        first = self.first_range[sample[run]]
        whole = first < 0
        number = np.where(whole, 0, first + np.arange(len(run)) - np.repeat(np.cumsum(counts) - counts, counts))
        before = np.append(0, np.cumsum(self.lengths))
        place = before[number] - before[np.maximum(first, 0)]
        low, high = start[run].astype(np.int64), (start + length)[run]
        low = np.where(whole, low, np.maximum(low, place))
        high = np.where(whole, high, np.minimum(high, place + self.lengths[number]))
        row_start = np.where(whole, low, self.starts[number] + low - place)
        filled = (high > low) | whole
        run, row_start, size = run[filled], row_start[filled], (high - low)[filled]
        joined = np.zeros(len(run), dtype=bool)
        joined[1:] = run[1:] == run[:-1]
        return run, row_start, size, joined


def accept(rows: Rows, spec: dict[str, Any], ledger: TableWriter, counts: Counter[str]) -> Samples:
    """Return what is trained on; what is dropped and cut goes into the ledger with the reason.

    `spec` as in `planning.plan`. Under `compat` the published script has accepted and shortened the rows.
    Raises DataError where `excess_length` is error and a row is too long.
    """
    limit, mode = spec["tokenize"]["sequence_len"], spec["tokenize"]["excess_length"]
    if spec["tokenize"]["compat"]:
        limit = None
    untrained = (rows.trained == 0) & (not spec["tokenize"]["compat"])
    too_long = np.zeros(len(untrained), dtype=bool)
    if limit is not None and spec["pack"]["strategy"] != "packed":
        too_long = (rows.length > limit) & ~untrained
    if mode == "error" and too_long.any():
        _refuse(rows, too_long, spec)
    kept = Kept(*(np.zeros(0, dtype=np.int64) for _ in Kept._fields))
    if mode in truncation.MODES and too_long.any():
        kept = _shorten(rows, np.flatnonzero(too_long), spec["parts"], limit, mode)
    lost = too_long.copy()
    lost[kept.row] = False
    for mask, reason in ((untrained, "no_trained_token"), (lost, "excess_length")):
        _drop(rows, np.flatnonzero(mask), reason, spec["parts"], ledger, counts)
    _record_cuts(rows, kept, spec["parts"], ledger, counts)
    counts["kept"] = len(untrained) - counts["dropped"]
    return _samples(rows, np.flatnonzero(~(untrained | too_long)), kept)


def _refuse(rows: Rows, too_long: Bool, spec: dict[str, Any]) -> None:
    first = np.flatnonzero(too_long)[:1]
    source, row_id = next(_names(spec["parts"], rows, first))
    raise DataError(
        f"{source} {row_id}: {rows.length[first[0]]} tokens, sequence_len is {spec['tokenize']['sequence_len']}; "
        f"{int(too_long.sum())} rows are too long (tokenize.excess_length: drop leaves them out)"
    )


def _drop(
    rows: Rows, chosen: Int64, reason: str, parts: Sequence[Path], ledger: TableWriter, counts: Counter[str]
) -> None:
    counts["dropped"] += len(chosen)
    counts[f"drop:{reason}"] += len(chosen)
    counts[f"drop_tokens:{reason}"] += int(rows.length[chosen].sum())
    for (source, row_id), length in zip(_names(parts, rows, chosen), rows.length[chosen].tolist(), strict=True):
        ledger.append(Entry(source, row_id, -1, "plan", "tokenize", "", "drop", reason, f"{length} tokens"))


def _record_cuts(rows: Rows, kept: Kept, parts: Sequence[Path], ledger: TableWriter, counts: Counter[str]) -> None:
    """Write the rows that were shortened or split into the ledger."""
    row, first, num_ranges = np.unique(kept.row, return_index=True, return_counts=True)
    left = np.add.reduceat(kept.length, first) if len(first) else first
    num_samples = kept.sample[first + num_ranges - 1] + 1
    counts["cut_rows"] += len(row)
    counts["cut_tokens"] += int((rows.length[row] - left).sum())
    for (source, row_id), length, size, samples in zip(
        _names(parts, rows, row), rows.length[row].tolist(), left.tolist(), num_samples.tolist(), strict=True
    ):
        evidence = f"{length - size} of {length} tokens cut" + (f", split into {samples}" if samples > 1 else "")
        ledger.append(Entry(source, row_id, -1, "plan", "tokenize", "", "cut", "excess_length", evidence))


def _samples(rows: Rows, whole: Int64, kept: Kept) -> Samples:
    keys, first, num_ranges = np.unique(truncation.sample_keys(kept), return_index=True, return_counts=True)
    lengths = np.add.reduceat(kept.length, first) if len(keys) else kept.length
    columns = (
        np.concatenate([whole, kept.row[first]]),
        np.concatenate([np.zeros(len(whole), dtype=np.int64), kept.sample[first]]),
        np.concatenate([rows.length[whole], lengths]),
        np.concatenate([np.full(len(whole), -1, dtype=np.int64), first]),
        np.concatenate([np.zeros(len(whole), dtype=np.int64), num_ranges]),
    )
    if len(keys):
        order = np.lexsort(columns[1::-1])
        columns = tuple(column[order] for column in columns)  # type: ignore[assignment]
    return Samples(*columns, kept.start, kept.length)


def _shorten(rows: Rows, chosen: Int64, parts: Sequence[Path], limit: int, mode: str) -> Kept:
    """Shorten the chosen rows, which ascend by part and item; their numbers in the result are those in `rows`."""
    pieces = []
    for number in np.unique(rows.part[chosen]).tolist():
        mine = chosen[rows.part[chosen] == number]
        first = 0
        for batch in read_batches(parts[number] / TOKENIZED_FILE):
            span = slice(*np.searchsorted(rows.item[mine], (first, first + len(batch))))
            if span.stop > span.start:
                long = _long_rows(batch.take(pa.array(rows.item[mine[span]] - first)))
                kept = truncation.truncate(long, limit, mode)
                pieces.append(kept._replace(row=mine[span][kept.row]))
            first += len(batch)
    return Kept(*(np.concatenate(columns) for columns in zip(*pieces, strict=True)))


def _long_rows(batch: pa.RecordBatch) -> LongRows:
    length = np.diff(batch.column("input_ids").offsets.to_numpy()).astype(np.int64)
    row, ends = _flat(batch, "turn_ends", 1)
    start = np.zeros(len(row), dtype=np.int64)
    same = row[1:] == row[:-1]
    start[1:][same] = ends[:-1][same]
    return LongRows(
        length,
        batch.column("chat").to_numpy(zero_copy_only=False),
        Runs(row, start, ends - start),
        _runs(batch, "mask_runs"),
        _runs(batch, "content_runs"),
    )


def _runs(batch: pa.RecordBatch, name: str) -> Runs:
    row, values = _flat(batch, name, 2)
    return Runs(row, values[0::2], values[1::2])


def _flat(batch: pa.RecordBatch, name: str, size: int) -> tuple[Int64, Int64]:
    """Return the row of every group of `size` values of a list column, and all values."""
    column = batch.column(name)
    offsets = column.offsets.to_numpy()
    values = column.values.to_numpy()[offsets[0] : offsets[-1]].astype(np.int64)
    return np.repeat(np.arange(len(column)), np.diff(offsets) // size), values


def _names(parts: Sequence[Path], rows: Rows, chosen: Int64) -> Iterator[tuple[str, str]]:
    """Yield (source, id) of chosen rows, which ascend by part and item."""
    for number in np.unique(rows.part[chosen]).tolist():
        items = rows.item[chosen[rows.part[chosen] == number]]
        first = 0
        for batch in read_batches(parts[number] / TOKENIZED_FILE):
            local = items[(items >= first) & (items < first + len(batch))] - first
            picked = batch.select(["source", "id"]).take(pa.array(local))
            yield from zip(picked.column(0).to_pylist(), picked.column(1).to_pylist(), strict=True)
            first += len(batch)
