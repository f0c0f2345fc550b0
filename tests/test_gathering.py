"""Copying ranges of tokens: one after the other where they are long, by an index where they are short, with the same result."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sftdata.gathering import LONG_RANGE, copy_ranges


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 30)), max_size=20), st.sampled_from([1, LONG_RANGE]), st.booleans()
)
def test_ranges_are_copied_to_their_places(ranges, scale, read_only):
    values = np.arange(100 * LONG_RANGE, dtype=np.int32)
    values.flags.writeable = not read_only  # as the tokens in the mapped files are
    first, lengths = (np.array([pair[column] for pair in ranges], dtype=np.int64) * scale for column in (0, 1))
    ends = np.cumsum(lengths + 1)
    out = np.full(int(ends[-1]) if ranges else 0, -1, dtype=np.int32)
    expected = out.copy()
    copy_ranges(values, first, out, ends - lengths - 1, lengths.astype(np.int32))
    for low, end, length in zip(first, ends, lengths, strict=True):
        expected[end - length - 1 : end - 1] = values[low : low + length]
    assert out.tolist() == expected.tolist()
