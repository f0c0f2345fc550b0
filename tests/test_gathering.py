"""Gather copies ranges of tokens to their places, and cuts rows into record batches and windows that stay small."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sftdata.gathering import BATCH_TOKENS, LONG_RANGE, WINDOW_TOKENS, _batch_borders, _windows, copy_ranges
from sftdata.shards import BATCH_ROWS


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


@given(st.lists(st.tuples(st.integers(1, 2 * BATCH_TOKENS), st.integers(1, 1500)), min_size=1, max_size=8))
def test_batches_and_windows_are_full_and_stay_small(runs):
    tokens = np.concatenate([np.full(num_rows, max(length // num_rows, 1)) for length, num_rows in runs])
    ends = np.append(0, np.cumsum(tokens)).astype(np.int64)
    borders = _batch_borders(ends)
    assert borders[0] == 0 and borders[-1] == len(tokens)
    for first, last in pairwise(borders):
        assert 0 < last - first <= BATCH_ROWS
        assert ends[last] - ends[first] <= BATCH_TOKENS or last == first + 1
        full = last - first == BATCH_ROWS or last == len(tokens)
        assert full or ends[last + 1] - ends[first] > BATCH_TOKENS
    windows = _windows(ends, borders)
    assert [border for window in windows for border in window[:-1]] == borders[:-1]
    for window in windows:
        assert ends[window[-1]] - ends[window[0]] <= WINDOW_TOKENS or len(window) == 2
