"""Whole samples, a long one filled up with the shortest that remain: the `concat` of the published GPT-2 comparison."""

from __future__ import annotations

import numpy as np

from sftdata import columns
from sftdata.columns import offsets
from sftdata.packing.rows import Int64, Integers, Rows, longest_first, whole_samples


def concat_rows(lengths: Integers, sequence_len: int) -> Rows:
    """Fill the longest sample up with the shortest that remain, then the next longest, and so on."""
    order = longest_first(lengths, sequence_len)
    runs = np.array(_runs(columns.take(lengths, order), sequence_len), dtype=np.int64).reshape(-1, 2)
    ends = np.cumsum(runs[:, 0])
    num_rows = int(ends[-1]) if len(ends) else 0
    sizes = columns.computed(num_rows, np.int32, lambda rows: 1 + runs[_run_of(ends, rows), 1])
    begin = offsets(sizes)
    item = columns.empty(len(order), order.dtype)
    shortest = order[num_rows:][::-1]
    for rows, segments in columns.spans(begin):
        opens_row = np.zeros(segments.stop - segments.start, dtype=bool)
        opens_row[begin[rows] - segments.start] = True
        mine = item[segments]
        mine[opens_row] = order[rows]
        mine[~opens_row] = shortest[segments.start - rows.start : segments.stop - rows.stop]
    return whole_samples(sizes, item, lengths)


def _run_of(ends: Int64, rows: slice) -> Int64:
    return np.searchsorted(ends, np.arange(rows.start, rows.stop), side="right")


def _runs(falling: Integers, sequence_len: int) -> list[tuple[int, int]]:
    """Return runs (number of rows, short samples behind the long one of each) for lengths sorted from long to short."""
    runs: list[tuple[int, int]] = []
    tokens_before = offsets(falling)
    longer_than = (len(falling) - np.cumsum(columns.counts(falling, sequence_len + 1))).tolist()
    first, end = 0, len(falling)
    while first < end:
        longest, shortest = int(falling[first]), int(falling[end - 1])
        room = sequence_len - longest
        num_fitting = room // shortest
        num_longest = min(longer_than[longest - 1], end) - first
        if not num_fitting:
            num, fills = min(longer_than[sequence_len - shortest], end) - first, 0
        elif longest == shortest:
            num, fills = num_longest // (num_fitting + 1), num_fitting
        else:
            num, fills = min(num_longest, (end - longer_than[shortest]) // num_fitting), num_fitting
        if not num:
            begin = np.searchsorted(tokens_before, tokens_before[end] - room)
            num, fills = 1, end - max(int(begin), first + 1)
        runs.append((num, fills))
        first, end = first + num, end - num * fills
    return runs
