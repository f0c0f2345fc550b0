"""Whole samples in nearly as few rows as possible: best-fit decreasing over the counts of lengths, in near-linear time."""

from __future__ import annotations

import numpy as np

from sftdata.packing.rows import Integers, Rows, longest_first, offsets, whole_samples


def best_fit_rows(lengths: Integers, sequence_len: int) -> Rows:
    """Put every sample, longest first, into the fullest row with room for it: best-fit decreasing, in steps of many samples.

    Rows that were filled alike are one run of consecutive rows, so a step is: `times` samples of one length go into each of
    `num_rows` rows from `first_row` on, behind the `size` segments that are there. Samples of equal length keep their order.
    """
    steps = np.array(_steps(lengths, sequence_len), dtype=np.int64).reshape(-1, 4)
    first_row, num_rows, times, size = steps.T
    row = np.repeat(first_row - (np.cumsum(num_rows) - num_rows), num_rows) + np.arange(num_rows.sum())
    times, size = np.repeat(times, num_rows), np.repeat(size, num_rows)
    sizes = np.bincount(row, weights=times).astype(np.int64)
    place = np.repeat(offsets(sizes)[row] + size - (np.cumsum(times) - times), times) + np.arange(len(lengths))
    item = np.empty(len(lengths), dtype=np.int64)
    item[place] = longest_first(lengths, sequence_len)
    return whole_samples(sizes, item, lengths)


def _steps(lengths: Integers, sequence_len: int) -> list[tuple[int, int, int, int]]:
    """Return the steps (first_row, num_rows, times, size) of best-fit decreasing, in order of falling length.

    A row that takes one sample and has room for a second of that length is still the best fit, hence `times`. Bit r of
    `with_room` is set when some rows have r tokens of room, so the best fit is its lowest set bit from `length` up.
    """
    steps: list[tuple[int, int, int, int]] = []
    runs: dict[int, list[tuple[int, int, int]]] = {}
    with_room = num_rows = 0
    counts = np.bincount(lengths)
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
