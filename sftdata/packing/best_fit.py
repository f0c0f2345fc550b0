"""Whole samples in nearly as few rows as possible: best-fit decreasing over the counts of lengths, in near-linear time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sftdata import columns
from sftdata.packing.rows import Int64, Integers, Rows, longest_first, whole_samples


def best_fit_rows(lengths: Integers, sequence_len: int) -> Rows:
    """Put every sample, longest first, into the fullest row with room for it: best-fit decreasing, in steps of many samples.

    Rows that were filled alike are one run of consecutive rows, so a step is: `times` samples of one length go into each of
    `num_rows` rows from `first_row` on, behind the `size` segments that are there. Samples of equal length keep their order.
    """
    steps = _in_blocks(np.array(_steps(lengths, sequence_len), dtype=np.int64).reshape(-1, 4))
    sizes = columns.zeros(int((steps[:, 0] + steps[:, 1]).max(initial=0)), np.int32)
    for row, times, _ in _expanded(steps):
        np.add.at(sizes, row, times.astype(np.int32))
    begin, falling = columns.offsets(sizes), longest_first(lengths, sequence_len)
    item = columns.empty(len(lengths), falling.dtype)
    end = 0
    for row, times, size in _expanded(steps):
        place = np.repeat(begin[row] + size - (np.cumsum(times) - times), times) + np.arange(times.sum())
        item[place] = falling[end : end + len(place)]
        end += len(place)
    return whole_samples(sizes, item, lengths)


def _in_blocks(steps: Int64) -> Int64:
    """Return the steps with those of many samples cut into steps of at most a block, or of one row."""
    first_row, num_rows, times, size = steps.T
    most = np.maximum(columns.BLOCK // times, 1)
    pieces = -(-num_rows // most)
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    skipped = number * np.repeat(most, pieces)
    left = np.minimum(np.repeat(most, pieces), np.repeat(num_rows, pieces) - skipped)
    return np.stack([np.repeat(first_row, pieces) + skipped, left, np.repeat(times, pieces), np.repeat(size, pieces)], axis=1)


def _expanded(steps: Int64) -> Iterator[tuple[Int64, Int64, Int64]]:
    """Yield rows, how many samples each takes and how many segments are in it already: of steps of a block of samples."""
    for some, _ in columns.spans(columns.offsets(steps[:, 1] * steps[:, 2])):
        first_row, num_rows, times, size = steps[some].T
        row = np.repeat(first_row - (np.cumsum(num_rows) - num_rows), num_rows) + np.arange(num_rows.sum())
        yield row, np.repeat(times, num_rows), np.repeat(size, num_rows)


def _steps(lengths: Integers, sequence_len: int) -> list[tuple[int, int, int, int]]:
    """Return the steps (first_row, num_rows, times, size) of best-fit decreasing, in order of falling length.

    A row that takes one sample and has room for a second of that length is still the best fit, hence `times`. Bit r of
    `with_room` is set when some rows have r tokens of room, so the best fit is its lowest set bit from `length` up.
    """
    steps: list[tuple[int, int, int, int]] = []
    runs: dict[int, list[tuple[int, int, int]]] = {}
    with_room = num_rows = 0
    counts = columns.counts(lengths)
    for length in np.flatnonzero(counts)[::-1].tolist():
        remaining = int(counts[length])
        while remaining:
            fitting = with_room >> length
            room = length + (fitting & -fitting).bit_length() - 1 if fitting else sequence_len
            times = min(room // length, remaining)
            if fitting:
                first, num, size = runs[room].pop()
                if not runs[room]:
                    with_room ^= 1 << room
            else:
                first, num, size = num_rows, remaining // times, 0
                num_rows += num
            num_used = min(num, remaining // times)
            steps.append((first, num_used, times, size))
            remaining -= num_used * times
            used = (room - times * length, first, num_used, size + times)
            unused = (room, first + num_used, num - num_used, size)
            for left, first, num, size in (used, unused):
                if num:
                    runs.setdefault(left, []).append((first, num, size))
                    with_room |= 1 << left
    return steps
