"""Exact deduplication: the first copies stay, in row order, and every surplus row knows its survivor."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata.dedup import exact

CONTENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(2**64 - 2, 2**64 - 1)), max_size=60)


def digests_of(contents: list[tuple[int, int]]) -> np.ndarray:
    return np.array(contents, dtype=np.uint64).reshape(-1, 2)


def none_exempt(num_rows: int) -> np.ndarray:
    return np.zeros(num_rows, dtype=bool)


@settings(deadline=None)
@given(CONTENTS, st.integers(1, 4), st.data())
def test_rows_past_the_allowed_copies_are_surplus(contents, max_copies, data):
    exempt = np.array(data.draw(st.lists(st.booleans(), min_size=len(contents), max_size=len(contents))), dtype=bool)
    found = exact(digests_of(contents), exempt, max_copies=max_copies)
    seen: dict[tuple[int, int], list[int]] = {}
    for row, content in enumerate(contents):
        copies = seen.setdefault(content, [])
        assert found.surplus[row] == (len(copies) >= max_copies and not exempt[row])
        copies.append(row)
        assert found.survivor[row] == copies[0]
    assert len(found.surplus) == len(found.survivor) == len(contents)


def test_second_of_two_copies_goes_and_names_the_first():
    found = exact(digests_of([(1, 1), (2, 1), (1, 1), (1, 2)]), none_exempt(4), max_copies=1)
    assert found.surplus.tolist() == [False, False, True, False]
    assert found.survivor.tolist() == [0, 1, 0, 3]


def test_exempt_rows_stay_however_often_they_occur():
    found = exact(digests_of([(1, 1)] * 5), np.array([True] * 5), max_copies=1)
    assert not found.surplus.any() and found.survivor.tolist() == [0] * 5


def test_no_rows_give_no_decisions():
    found = exact(digests_of([]), none_exempt(0), max_copies=1)
    assert found.surplus.tolist() == [] and found.survivor.tolist() == []
    assert (found.surplus.dtype, found.survivor.dtype) == (bool, np.int64)
