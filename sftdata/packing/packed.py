"""All samples as one stream that is cut into rows: no unused room, but samples are split."""

from __future__ import annotations

import numpy as np

from sftdata import columns
from sftdata.packing.rows import Int64, Integers, Rows


def packed_rows(lengths: Integers, sequence_len: int) -> Rows:
    """Cut the stream of all samples every `sequence_len` tokens; the last row may be short."""
    total = int(lengths.sum(dtype=np.int64))
    num_segments = len(lengths) + _num_splits(lengths, sequence_len)
    item = columns.empty(num_segments, columns.index_type(len(lengths)))
    start, length = (columns.empty(num_segments, np.int32) for _ in range(2))
    sizes = columns.zeros(-(-total // sequence_len), np.int32)
    tokens = end = 0
    for samples in columns.blocks(len(lengths)):
        sample_ends, cuts, cut_sample = _cuts(lengths[samples], tokens, sequence_len)
        mine = np.insert(np.arange(len(sample_ends)), cut_sample, cut_sample)
        starts = np.append(tokens, np.insert(sample_ends, cut_sample, cuts))
        segments = slice(end, end := end + len(mine))
        item[segments] = mine + samples.start
        length[segments] = np.diff(starts)
        start[segments] = starts[:-1] - (sample_ends - lengths[samples])[mine]
        first_row = tokens // sequence_len
        here = np.bincount(starts[:-1] // sequence_len - first_row)
        sizes[first_row : first_row + len(here)] += here.astype(np.int32)
        tokens = int(sample_ends[-1])
    return Rows(sizes, item, start, length)


def _cuts(lengths: Integers, tokens: int, sequence_len: int) -> tuple[Int64, Int64, Int64]:
    """Return where samples end that follow `tokens` tokens, where rows end inside of samples, and inside of which."""
    sample_ends = tokens + np.cumsum(lengths, dtype=np.int64)
    cuts = np.arange((tokens // sequence_len + 1) * sequence_len, int(sample_ends[-1]), sequence_len)
    cut_sample = np.searchsorted(sample_ends, cuts)
    splits = sample_ends[cut_sample] != cuts
    return sample_ends, cuts[splits], cut_sample[splits]


def _num_splits(lengths: Integers, sequence_len: int) -> int:
    """Return how often a row ends inside a sample."""
    tokens = splits = 0
    for samples in columns.blocks(len(lengths)):
        sample_ends, cuts, _ = _cuts(lengths[samples], tokens, sequence_len)
        tokens, splits = int(sample_ends[-1]), splits + len(cuts)
    return splits
