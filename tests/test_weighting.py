"""How often each row is trained: shares and budget within one row, caps and stop rules as asked."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftdata import mixing
from sftdata.errors import DataError
from sftdata.weighting import Ask, choose_copies, targets

SIZES = st.lists(st.integers(1, 90), min_size=1, max_size=40)


def amounts(asks, sizes, *, budget=None, stop="first_exhausted"):
    found = targets(asks, sizes, budget=budget, stop=stop, unit="tokens")
    return [float(target.amount) for target in found], [float(target.asked) for target in found]


@st.composite
def sources(draw):
    """Draw (source of each row, size of each row, amount of each source)."""
    sizes = draw(st.lists(SIZES, min_size=1, max_size=4))
    source = np.repeat(np.arange(len(sizes)), [len(rows) for rows in sizes])
    whole = [sum(rows) for rows in sizes]
    asked = [Fraction(draw(st.integers(0, 4 * total)), draw(st.integers(1, 3))) for total in whole]
    return source, np.array([size for rows in sizes for size in rows]), asked


@given(sources(), st.randoms(use_true_random=False))
def test_shares_and_their_sum_are_met_within_one_row(drawn, random):
    source, size, asked = drawn
    order = np.array(random.sample(range(len(size)), len(size)))
    num_copies = choose_copies(asked, source, size, order)
    for number, amount in enumerate(asked):
        mine = source == number
        assert abs((num_copies * size)[mine].sum() - amount) < size[mine].max()
        assert num_copies[mine].max() - num_copies[mine].min() <= 1
    assert abs((num_copies * size).sum() - sum(asked)) <= Fraction(int(size.max()), 2)


@given(sources())
def test_the_rows_taken_once_more_are_the_first_of_the_order(drawn):
    source, size, asked = drawn
    num_copies = choose_copies(asked, source, size, np.arange(len(size)))
    for number in range(len(asked)):
        assert (np.diff(num_copies[source == number]) <= 0).all()


@given(
    st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 9), st.none() | st.integers(1, 5)), min_size=1, max_size=5),
    st.integers(1, 20_000),
)
def test_a_budget_is_met_whole_and_no_cap_is_passed(drawn, budget):
    sizes = [size for size, _, _ in drawn]
    asks = [Ask(str(place), weight, None, cap) for place, (_, weight, cap) in enumerate(drawn)]
    if all(cap for *_, cap in drawn) and budget > sum(size * cap for size, _, cap in drawn):
        with pytest.raises(DataError, match=r"mix\.budget: .* max_epochs allows only"):
            amounts(asks, sizes, budget=budget)
        return
    found, asked = amounts(asks, sizes, budget=budget)
    assert sum(found) == pytest.approx(budget) and sum(asked) == pytest.approx(1)
    for amount, (size, _, cap) in zip(found, drawn, strict=True):
        assert cap is None or amount <= size * cap + 1e-6
    open_levels = [amount / weight for amount, (size, weight, cap) in zip(found, drawn, strict=True) if cap is None]
    assert all(level == pytest.approx(open_levels[0]) for level in open_levels)


def test_first_exhausted_stops_where_the_first_source_ends():
    asks = [Ask("a", 3), Ask("b", 1)]
    assert amounts(asks, [300, 500]) == ([300, 100], [0.75, 0.25])
    assert amounts([Ask("a", 3, None, 2), Ask("b", 1)], [300, 500])[0] == [600, 200]


def test_all_exhausted_repeats_the_smaller_sources_up_to_their_cap():
    asks = [Ask("a", 1), Ask("b", 1)]
    assert amounts(asks, [100, 500], stop="all_exhausted")[0] == [500, 500]
    found, asked = amounts([Ask("a", 1, None, 3), Ask("b", 1)], [100, 500], stop="all_exhausted")
    assert found == [300, 500] and asked == [0.5, 0.5]


def test_epochs_take_their_part_and_weights_share_the_rest():
    asks = [Ask("a", None, 2.5), Ask("b", 1), Ask("c", 3)]
    assert amounts(asks, [100, 1000, 1000], budget=1050)[0] == [250, 200, 600]
    assert amounts([Ask("a", None, 0.5), Ask("b", None, 2.0)], [100, 30]) == ([50, 60], [50 / 110, 60 / 110])


def test_a_source_at_its_cap_leaves_its_share_to_the_others():
    found, asked = amounts([Ask("a", 2, None, 1), Ask("b", 1), Ask("c", 1)], [100, 900, 900], budget=1000)
    assert found == [100, 450, 450] and asked == [0.5, 0.25, 0.25]


def test_weights_are_the_numbers_that_were_written():
    found = targets([Ask("a", 0.1), Ask("b", 0.2)], [999, 1000], budget=300, stop="first_exhausted", unit="tokens")
    assert [target.amount for target in found] == [100, 200]


def test_an_empty_source_and_a_budget_below_the_epochs_are_refused():
    with pytest.raises(DataError, match="source 'b' has a weight but no tokens to train"):
        amounts([Ask("a", 1), Ask("b", 1)], [10, 0])
    with pytest.raises(DataError, match=r"mix\.budget: 10 tokens are less than the sources with epochs take"):
        amounts([Ask("a", None, 2), Ask("b", 1)], [10, 10], budget=10)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.booleans(), st.integers(0, 99))
def test_copies_never_share_a_bucket(num_copies, shuffle, seed):
    num_copies = np.array(num_copies)
    identity = np.arange(len(num_copies), dtype=np.uint64) * np.uint64(2**40 + 1)
    category = np.zeros(len(num_copies), np.int32)
    mixed = mixing.weighted(identity, category, num_copies, seed=seed, shuffle=shuffle)
    assert np.bincount(mixed.order, minlength=len(num_copies)).tolist() == num_copies.tolist()
    assert len(mixed.bucket_ends) == max(num_copies.max(), 1) and mixed.bucket_ends[-1] == len(mixed.order)
    for bucket in np.split(mixed.order, mixed.bucket_ends[:-1]):
        assert len(set(bucket.tolist())) == len(bucket)
    assert len({*zip(mixed.order.tolist(), mixed.copy.tolist(), strict=True)}) == len(mixed.order)
    assert (mixed.copy < num_copies[mixed.order]).all() and mixed.copy.dtype == np.int32


def test_buckets_of_copies_hold_about_the_same_of_every_source():
    source = np.repeat(np.arange(3, dtype=np.int32), [50, 200, 400])
    num_copies = np.repeat([7, 2, 1], [50, 200, 400])
    mixed = mixing.weighted(np.arange(650, dtype=np.uint64), source, num_copies, seed=3)
    counts = np.array([np.bincount(source[bucket], minlength=3) for bucket in np.split(mixed.order, mixed.bucket_ends[:-1])])
    assert counts.shape == (7, 3) and counts.sum(axis=0).tolist() == [350, 400, 400]
    assert (np.ptp(counts, axis=0) <= [0, 2, 1]).all()


def test_copies_of_a_row_lie_far_from_each_other():
    num_copies = np.array([2] * 30 + [6])
    mixed = mixing.weighted(np.arange(31, dtype=np.uint64), np.zeros(31, np.int32), num_copies, seed=1)
    bucket = np.searchsorted(mixed.bucket_ends, np.arange(len(mixed.order)), side="right")
    for row in range(30):
        first, second = np.sort(bucket[mixed.order == row])
        assert second - first == 3


def test_copies_have_keys_and_places_of_their_own():
    mixed = mixing.weighted(np.arange(40, dtype=np.uint64), np.zeros(40, np.int32), np.full(40, 3), seed=1)
    assert len(np.unique(mixed.keys)) == 120
    first, second, _ = (mixed.order[bucket].tolist() for bucket in np.split(np.arange(120), [40, 80]))
    assert sorted(first) == sorted(second) and first != second


def test_more_copies_than_the_plan_can_number_are_refused():
    with pytest.raises(DataError, match="source 'few' would be trained more than 65,000 times; give it max_epochs"):
        amounts([Ask("few", epochs=70_000.0), Ask("many", weight=1.0)], [5, 500])
