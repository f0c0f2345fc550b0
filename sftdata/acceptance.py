"""Acceptance: which tokenized rows are trained on, and how much of those that are too long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sftdata import columns, truncation
from sftdata.entries import TOKENIZED_FILE
from sftdata.errors import DataError
from sftdata.row_log import RowLog, Rows
from sftdata.schemas import SPLITS
from sftdata.tables import read_batches
from sftdata.truncation import Kept, LongRows, Runs

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer[Any]]
Bool = npt.NDArray[np.bool_]


class Samples(NamedTuple):
    """What is mixed and packed, ascending by row: whole rows, and what is left of those that were shortened."""

    row: Integers
    """(s,) several for a row that was split."""
    length: Int32
    """(s,)"""
    shortened: Int64
    """(k,) ascending: which samples are not their whole row. The next four columns are theirs."""
    number: Int64
    """(k,) of the row's samples, from 0."""
    trained: Int64
    """(k,) trained tokens that can be a target."""
    first_range: Int64
    """(k,) the first of the sample's ranges."""
    num_ranges: Int64
    """(k,)"""
    starts: Int64
    """(r,) ranges of tokens in their row."""
    lengths: Int64

    def spread(self, values: Int64, sample: Integers, whole: Integers | int) -> Integers:
        """Return, for samples (m,), what `values` (k,) says of the shortened ones and `whole` of the others."""
        place = np.searchsorted(self.shortened, sample)
        found = np.append(self.shortened, -1)[place] == sample
        return np.where(found, np.append(values, 0)[place], whole)

    def pieces(self, sample: Integers, start: Integers, length: Integers) -> tuple[Int64, Integers, Integers, Bool]:
        """Return where runs of tokens of samples lie in their rows: (which run, start, length, joined to the piece before).

        sample, start, length: (m,), counted in what is left of the row.
        """
        if not len(self.shortened):
            return np.arange(len(sample)), start, length, np.zeros(len(sample), dtype=bool)
        counts = self.spread(self.num_ranges, sample, 1)
        run = np.repeat(np.arange(len(sample)), counts)
        first = self.spread(self.first_range, sample, -1)[run]
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


def accept(rows: Rows, spec: dict[str, Any], log: RowLog) -> Samples:
    """Return what is trained on; what is dropped and cut goes into the ledger with the reason.

    `spec` as in `planning.plan`. Under `compat` the published script has accepted and shortened the rows.
    Raises DataError where `excess_length` is error and a row is too long.
    """
    limit, mode = spec["tokenize"]["sequence_len"], spec["tokenize"]["excess_length"]
    if spec["tokenize"]["compat"]:
        limit = None
    untrained = (rows.trained == 0) & (not spec["tokenize"]["compat"])
    too_long = np.zeros(len(untrained), dtype=bool)
    if limit is not None:
        ways = [packing_of(spec, split) for split in range(len(SPLITS))]
        bounded = np.array([strategy != "packed" and not published for strategy, published in ways])
        too_long = (rows.length > limit) & ~untrained & bounded[rows.split]
    if mode == "error" and too_long.any():
        _refuse(log, too_long, limit)
    kept, trained = Kept(*(np.zeros(0, dtype=np.int64) for _ in Kept._fields)), np.zeros(0, dtype=np.int64)
    if mode in truncation.MODES and too_long.any():
        kept, trained = _shorten(rows, np.flatnonzero(too_long), spec["parts"], limit, mode)
    lost = too_long.copy()
    lost[kept.row] = False
    for mask, reason in ((untrained, "no_trained_token"), (lost, "excess_length")):
        chosen = np.flatnonzero(mask)
        log.drop(chosen, ("tokenize", reason), rows.length[chosen])
    _record_cuts(log, kept)
    return _samples(rows, ~(untrained | too_long), kept, trained)


def packing_of(spec: dict[str, Any], split: int) -> tuple[str, bool]:
    """Return how a split is packed, and whether as a published program does, which cuts long rows itself: training alone."""
    pack = spec["pack"]
    strategy = pack["validation"] or pack["strategy"] if split else pack["strategy"]
    return strategy, pack["compat"] is not None and split == 0


def _refuse(log: RowLog, too_long: Bool, limit: int) -> None:
    first = np.flatnonzero(too_long)[:1]
    [source], [row_id] = (column.to_pylist() for column in log.names(first))
    raise DataError(
        f"{source} {row_id}: {log.rows.length[first[0]]} tokens, sequence_len is {limit}; {int(too_long.sum())} rows are too "
        "long (tokenize.excess_length: drop leaves them out)"
    )


def _record_cuts(log: RowLog, kept: Kept) -> None:
    """Write the rows that were shortened or split into the ledger."""
    row, first, num_ranges = np.unique(kept.row, return_index=True, return_counts=True)
    left = np.add.reduceat(kept.length, first) if len(first) else first
    length = log.rows.length[row]
    log.cut(row, ("tokenize", "excess_length"), length, length - left, kept.sample[first + num_ranges - 1] + 1)


def _samples(rows: Rows, whole: Bool, kept: Kept, trained: Int64) -> Samples:
    """Return the samples: the rows marked as whole, and those of `kept`."""
    row = columns.places(len(whole), lambda some: whole[some])
    if not len(kept.row):
        none = kept.row
        return Samples(row, rows.length if len(row) == len(whole) else columns.take(rows.length, row), *[none] * 7)
    _, first, num_ranges = np.unique(truncation.sample_keys(kept), return_index=True, return_counts=True)
    all_rows = np.concatenate([row, kept.row[first].astype(np.int32)])
    lengths = np.concatenate([rows.length[row], np.add.reduceat(kept.length, first).astype(np.int32)])
    order = np.argsort(all_rows, kind="stable")
    shortened = np.flatnonzero(order >= len(row))
    return Samples(
        all_rows[order], lengths[order], shortened, kept.sample[first], trained, first, num_ranges, kept.start, kept.length
    )


def _shorten(rows: Rows, chosen: Int64, parts: Sequence[Path], limit: int, mode: str) -> tuple[Kept, Int64]:
    """Shorten the chosen rows, which ascend; their numbers in the result are those in `rows`.

    Returns what is kept, and the trained tokens of each sample of that.
    """
    pieces: list[Kept] = []
    trained: list[Int64] = []
    for span, long in _long_rows(rows, chosen, parts):
        kept = truncation.truncate(long, limit, mode)
        pieces.append(kept._replace(row=span[kept.row].astype(np.int64)))
        trained.append(truncation.num_trained(kept, long.trained).counts)
    return Kept(*(np.concatenate(columns) for columns in zip(*pieces, strict=True))), np.concatenate(trained)


def trained_heads(rows: Rows, chosen: Integers, parts: Sequence[Path], limit: int) -> Bool:
    """Return whether any of the first `limit` tokens of the chosen rows, which ascend, is trained."""
    heads = []
    for span, long in _long_rows(rows, chosen, parts):
        number, zero = np.arange(len(span)), np.zeros(len(span), dtype=np.int64)
        head = Kept(number, zero, zero, np.full(len(span), limit, dtype=np.int64))
        heads.append(truncation.num_trained(head, long.trained).counts > 0)
    return np.concatenate(heads) if heads else np.zeros(0, dtype=bool)


def _long_rows(rows: Rows, chosen: Integers, parts: Sequence[Path]) -> Iterator[tuple[Integers, LongRows]]:
    """Yield the chosen rows, which ascend, batch by batch: their numbers, and what truncation needs of them."""
    part, item = rows.locate(chosen)
    for number in np.unique(part).tolist():
        mine, items = chosen[part == number], item[part == number]
        first = 0
        for batch in read_batches(parts[number] / TOKENIZED_FILE):
            span = slice(*np.searchsorted(items, (first, first + len(batch))))
            if span.stop > span.start:
                yield mine[span], _read_long(batch.take(pa.array(items[span] - first)))
            first += len(batch)


def _read_long(batch: pa.RecordBatch) -> LongRows:
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
