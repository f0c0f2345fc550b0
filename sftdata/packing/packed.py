"""All samples as one stream that is cut into rows: no unused room, but samples are split."""

from __future__ import annotations

import numpy as np

from sftdata.packing.rows import Integers, Rows


def packed_rows(lengths: Integers, sequence_len: int) -> Rows:
    """Cut the stream of all samples every `sequence_len` tokens; the last row may be short."""
    sample_ends = np.cumsum(lengths)
    cuts = np.arange(sequence_len, lengths.sum(), sequence_len)
    cut_sample = np.searchsorted(sample_ends, cuts)
    splits = sample_ends[cut_sample] != cuts
    cuts, cut_sample = cuts[splits], cut_sample[splits]
    item = np.insert(np.arange(len(lengths)), cut_sample, cut_sample)
    segment_starts = np.concatenate([[0], np.insert(sample_ends, cut_sample, cuts)])
    length = np.diff(segment_starts)
    start = segment_starts[:-1] - (sample_ends - lengths)[item]
    return Rows(np.bincount(segment_starts[:-1] // sequence_len), item, start.astype(np.int32), length.astype(np.int32))
