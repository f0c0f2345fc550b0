"""Whole samples one after the other, a new row where the next one does not fit: close to constant length, in their order.

`splice_rows` loses nothing. `splice_original` repeats what Colossal-LLaMA's `ClosedToConstantLengthSplicedDataset` does, its
loss of tokens included.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sftdata import columns
from sftdata.columns import offsets
from sftdata.packing.rows import Integers, Rows, whole_samples

Sequences = list[list[tuple[int, int]]]
"""(sample, tokens taken) of every segment of every row."""


def splice_rows(lengths: Integers, sequence_len: int) -> Rows:
    """Append each sample to the open row, or open a new one where it does not fit (next-fit); the order stays."""
    ends = offsets(lengths)
    kind = columns.index_type(len(lengths))
    follows = columns.computed(
        len(lengths), kind, lambda rows: np.searchsorted(ends, ends[rows] + sequence_len, side="right") - 1
    )
    begins = array("q")
    first = 0
    while first < len(lengths):
        begins.append(first)
        first = int(follows[first])
    begins.append(len(lengths))
    begin = np.frombuffer(begins, dtype=np.int64)
    sizes = columns.computed(len(begin) - 1, np.int32, lambda rows: np.diff(begin[rows.start : rows.stop + 1]))
    item = columns.computed(len(lengths), kind, lambda rows: np.arange(rows.start, rows.stop))
    return whole_samples(sizes, item, lengths)


def splice_original(
    lengths: Integers,
    sequence_len: int,
    *,
    num_packed_sequences: int,
    trained_head: npt.NDArray[np.bool_],
    generator: random.Random | None,
) -> Rows:
    """Splice one bucket as the published class does.

    Samples are read into buffers of at least `sequence_len * num_packed_sequences` tokens. One longer than a row is cut and
    becomes a row of its own at once, unless nothing of what is left is trained (`trained_head`, (n,): is any of the first
    `sequence_len` tokens trained?), which leaves it out. The row that is open when a buffer ends is thrown away, but for the
    last buffer's. `generator` shuffles the rows of each buffer as `random.shuffle` does after `random.seed`; None leaves them.
    """
    rows: Sequences = []
    for first, end, is_last in _buffers(lengths, sequence_len * num_packed_sequences):
        made = _splice_buffer(lengths, range(first, end), sequence_len, trained_head, keep_open=is_last)
        if generator is not None:
            generator.shuffle(made)
        rows += made
    flat = np.array([segment for row in rows for segment in row], dtype=np.int64).reshape(-1, 2)
    sizes = np.array([len(row) for row in rows], dtype=np.int64)
    return Rows(sizes, flat[:, 0], np.zeros(len(flat), dtype=np.int32), flat[:, 1].astype(np.int32))


def _buffers(lengths: Integers, num_tokens: int) -> Iterator[tuple[int, int, bool]]:
    """Yield (first, end, is last) of every buffer. One that the very last sample fills is not: an empty one follows."""
    ends = offsets(lengths)
    first = 0
    while first < len(lengths):
        end = int(np.searchsorted(ends, ends[first] + num_tokens, side="left"))
        yield first, min(end, len(lengths)), end > len(lengths)
        first = end


def _splice_buffer(
    lengths: Integers, samples: range, sequence_len: int, trained_head: npt.NDArray[np.bool_], *, keep_open: bool
) -> Sequences:
    rows: Sequences = []
    open_row: list[tuple[int, int]] = []
    room = sequence_len
    for sample in samples:
        length = int(lengths[sample])
        if length > sequence_len:
            if trained_head[sample]:
                rows.append([(sample, sequence_len)])
            continue
        if length > room:
            rows.append(open_row)
            open_row, room = [], sequence_len
        open_row.append((sample, length))
        room -= length
    if keep_open and open_row:
        rows.append(open_row)
    return rows
