"""Rows of whole or cut samples: every token once, as few rows as the plain algorithm, in an order that the seed decides."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata import mixing
from sftdata.errors import ConservationError, DataError, RecipeError
from sftdata.packing import STRATEGIES, lower_bound, pack, report_packing

PARITY = Path(__file__).resolve().parents[2] / "shared" / "parity" / "blog_modes" / "public"
WHOLE = ("best_fit", "concat", "splice", "padding")


@st.composite
def samples(draw, max_samples=60, max_len=40):
    """Draw (lengths, sequence_len) with many equal lengths, rows of one token and samples as long as a row."""
    sequence_len = draw(st.integers(1, max_len))
    lengths = draw(st.lists(st.integers(1, sequence_len), max_size=max_samples))
    return np.array(lengths, dtype=np.int64), sequence_len


def pack_one_bucket(lengths, sequence_len, strategy, **options):
    lengths = np.array(lengths, dtype=np.int64)
    return pack(lengths, np.array([len(lengths)]), strategy=strategy, sequence_len=sequence_len, **options)


def rows_of(plan, *columns):
    """Return the rows of a plan as lists of what the named columns hold."""
    values = list(zip(*(getattr(plan, column).tolist() for column in columns), strict=True))
    return [values[first:end] for first, end in pairwise(plan.pack_offsets.tolist())]


def items_of(plan):
    return [[item for (item,) in row] for row in rows_of(plan, "item")]


def row_tokens(plan):
    return [sum(length for (length,) in row) for row in rows_of(plan, "length")]


def best_fit_decreasing(lengths, sequence_len):
    rooms = []
    for length in sorted(lengths.tolist(), reverse=True):
        fitting = [(room, place) for place, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting)[1]] -= length
        else:
            rooms.append(sequence_len - length)
    return sorted(rooms)


def concat_two_pointers(lengths, sequence_len):
    order = sorted(range(len(lengths)), key=lambda item: -lengths[item])
    rows = []
    while order:
        row = [order.pop(0)]
        while order and lengths[row].sum() + lengths[order[-1]] <= sequence_len:
            row.append(order.pop())
        rows.append(row)
    return rows


def cut_stream(lengths, sequence_len):
    stream = [(item, token) for item, length in enumerate(lengths.tolist()) for token in range(length)]
    return [stream[first : first + sequence_len] for first in range(0, len(stream), sequence_len)]


def fewest_rows(lengths, sequence_len):
    """Try every row for every sample."""

    def place(remaining, rooms):
        if not remaining:
            return len(rooms)
        head, rest = remaining[0], remaining[1:]
        options = [[*rooms[:row], room - head, *rooms[row + 1 :]] for row, room in enumerate(rooms) if room >= head]
        return min(place(rest, option) for option in [*options, [*rooms, sequence_len - head]])

    return place(lengths, [])


def test_packing_strategies_are_the_known_ones():
    assert STRATEGIES == ("best_fit", "concat", "packed", "splice", "padding")


@given(samples(), st.lists(st.integers(0, 60), max_size=4), st.sampled_from(STRATEGIES), st.booleans())
def test_packing_keeps_every_token_once_and_in_its_bucket(drawn, cuts, strategy, keyed):
    lengths, sequence_len = drawn
    ends = np.array([*sorted(min(cut, len(lengths)) for cut in cuts), len(lengths)])
    keys = np.arange(len(lengths), dtype=np.uint64) * np.uint64(2**61 + 1) if keyed else None
    plan = pack(lengths, ends, strategy=strategy, sequence_len=sequence_len, keys=keys)
    rows = rows_of(plan, "item", "start", "length")
    tokens = Counter((item, start + place) for row in rows for item, start, length in row for place in range(length))
    assert tokens == Counter((item, token) for item, length in enumerate(lengths) for token in range(length))
    assert plan.bucket_rows.sum() == len(rows) and len(plan.bucket_rows) == len(ends)
    assert all(0 < sum(length for *_, length in row) <= sequence_len for row in rows)
    row_bucket = np.repeat(np.arange(len(ends)), plan.bucket_rows)
    assert all(np.searchsorted(ends, item, "right") == row_bucket[place] for place, row in enumerate(rows) for item, *_ in row)


def test_plans_hold_the_promised_integer_types():
    plan = pack_one_bucket([3, 2], 4, "packed")
    columns = (plan.pack_offsets, plan.item, plan.start, plan.length, plan.bucket_rows)
    assert [column.dtype for column in columns] == [np.int64, np.int32, np.int32, np.int32, np.int64]


@settings(max_examples=300)
@given(samples())
def test_best_fit_fills_rows_as_plain_best_fit_decreasing_does(drawn):
    lengths, sequence_len = drawn
    plan = pack_one_bucket(*drawn, "best_fit")
    assert sorted(sequence_len - tokens for tokens in row_tokens(plan)) == best_fit_decreasing(lengths, sequence_len)


def test_best_fit_equals_plain_best_fit_decreasing_on_many_samples():
    lengths = np.minimum(np.random.default_rng(5).lognormal(3.5, 1, 3000).astype(np.int64) + 1, 512)
    rooms = [512 - tokens for tokens in row_tokens(pack_one_bucket(lengths, 512, "best_fit"))]
    assert len(np.unique(lengths)) > 200 and len(rooms) > 200
    assert sorted(rooms) == best_fit_decreasing(lengths, 512)


def test_best_fit_leaves_almost_no_room():
    lengths = np.minimum(np.random.default_rng(6).lognormal(5, 1, 100_000).astype(np.int64) + 1, 4096)
    plan = pack_one_bucket(lengths, 4096, "best_fit")
    report = report_packing(plan, lengths, strategy="best_fit", sequence_len=4096)
    assert report.num_segments == 100_000
    assert report.fill > 0.999 and report.num_rows <= report.lower_bound + 5


@settings(max_examples=300)
@given(samples())
def test_concat_fills_long_samples_with_the_shortest(drawn):
    assert items_of(pack_one_bucket(*drawn, "concat")) == concat_two_pointers(*drawn)


@given(samples(), st.integers(1, 50))
def test_packed_cuts_one_stream(drawn, sequence_len):
    lengths, _ = drawn
    rows = rows_of(pack_one_bucket(lengths, sequence_len, "packed"), "item", "start", "length")
    tokens = [[(item, start + place) for item, start, length in row for place in range(length)] for row in rows]
    assert tokens == cut_stream(lengths, sequence_len)


def test_packed_splits_a_sample_over_many_rows():
    rows = rows_of(pack_one_bucket([3, 9, 4], 4, "packed"), "item", "start", "length")
    assert rows == [[(0, 0, 3), (1, 0, 1)], [(1, 1, 4)], [(1, 5, 4)], [(2, 0, 4)]]


def test_padding_gives_one_row_to_each_sample_in_order():
    assert rows_of(pack_one_bucket([5, 1, 4], 5, "padding"), "item", "length") == [[(0, 5)], [(1, 1)], [(2, 4)]]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_packing_nothing_gives_no_rows(strategy):
    plan = pack(np.empty(0, np.int64), np.zeros(3, np.int64), strategy=strategy, sequence_len=8)
    report = report_packing(plan, np.empty(0, np.int64), strategy=strategy, sequence_len=8)
    assert plan.pack_offsets.tolist() == [0] and plan.bucket_rows.tolist() == [0, 0, 0]
    assert (report.num_rows, report.lower_bound, report.fill) == (0, 0, 1.0)


@pytest.mark.parametrize("strategy", ["best_fit", "concat"])
def test_keys_order_rows_and_leave_their_contents(strategy):
    random = np.random.default_rng(7)
    lengths = random.integers(1, 100, 400)
    plans = [pack_one_bucket(lengths, 128, strategy)]
    plans += [pack_one_bucket(lengths, 128, strategy, keys=random.integers(0, 2**64, 400, np.uint64)) for _ in range(2)]
    made, one, other = map(items_of, plans)
    assert len(made) > 100 and sorted(made) == sorted(one) == sorted(other)
    assert made != one != other != made
    assert abs(np.corrcoef(np.arange(len(one)), row_tokens(plans[1]))[0, 1]) < 0.3
    assert abs(np.corrcoef(np.arange(len(one)), [lengths[row].max() for row in one])[0, 1]) < 0.3


def test_rows_stand_in_order_of_the_sums_of_their_keys():
    keys = np.array([2**64 - 1, 6, 2, 4], dtype=np.uint64)
    plan = pack(np.array([3, 3, 4, 3]), np.array([2, 4]), strategy="concat", sequence_len=4, keys=keys)
    assert items_of(plan) == [[1], [0], [2], [3]]
    plan = pack(np.array([3, 3, 2, 1]), np.array([4]), strategy="concat", sequence_len=4, keys=keys)
    assert items_of(plan) == [[2], [0, 3], [1]]


@pytest.mark.parametrize("strategy", ["packed", "padding"])
def test_keys_leave_the_mixed_order_of_packed_and_padding(strategy):
    keys = np.arange(50, dtype=np.uint64)[::-1].copy()
    plans = [pack_one_bucket(range(1, 51), 64, strategy, keys=given_keys) for given_keys in (None, keys)]
    assert len(items_of(plans[0])) > 10
    assert items_of(plans[0]) == items_of(plans[1])


@given(st.permutations(range(60)), st.sampled_from(STRATEGIES))
def test_mixed_and_packed_contents_are_the_same_for_any_listing(listing, strategy):
    identity = np.arange(60, dtype=np.uint64)
    lengths = np.arange(60) * 7919 % 23 + 1
    contents = []
    for rows in (np.arange(60), np.array(listing)):
        mixed = mixing.buckets(identity[rows], rows % 3, bins=3, seed=11)
        plan = pack(lengths[rows][mixed.order], mixed.bucket_ends, strategy=strategy, sequence_len=32, keys=mixed.keys)
        contents.append([rows[mixed.order][row].tolist() for row in items_of(plan)])
    assert len(contents[0]) > 15
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("lengths", "rows"), [([6, 6, 6], 3), ([5, 5], 1), ([5, 5, 1], 2), ([9, 2], 2), ([6, 6, 5], 3), ([], 0)]
)
def test_lower_bound_of_known_samples(lengths, rows):
    assert lower_bound(np.array(lengths, dtype=np.int64), 10) == rows


@settings(max_examples=150)
@given(samples(max_samples=7, max_len=20))
def test_no_packing_is_below_the_lower_bound(drawn):
    lengths, sequence_len = drawn
    bound = lower_bound(lengths, sequence_len)
    assert -(-lengths.sum() // sequence_len) <= bound <= fewest_rows(lengths.tolist(), sequence_len)


@given(samples(), st.sampled_from(STRATEGIES))
def test_reports_agree_with_their_plan(drawn, strategy):
    lengths, sequence_len = drawn
    plan = pack_one_bucket(lengths, sequence_len, strategy)
    report = report_packing(plan, lengths, strategy=strategy, sequence_len=sequence_len)
    assert report.num_rows == len(items_of(plan)) >= report.lower_bound
    assert report.num_tokens_in == report.num_tokens_out == lengths.sum()
    assert report.num_tokens_out + report.num_padding == report.num_rows * sequence_len
    assert report.num_split_samples == sum(count > 1 for count in Counter(plan.item.tolist()).values())
    assert report.num_split_samples == 0 or strategy == "packed"


def test_report_counts_split_samples_and_bounds_each_bucket():
    lengths, ends = np.array([3, 9, 4, 1]), np.array([3, 4])
    report = report_packing(
        pack(lengths, ends, strategy="packed", sequence_len=4), lengths, strategy="packed", sequence_len=4
    )
    assert (report.num_rows, report.lower_bound, report.num_segments, report.num_split_samples) == (5, 5, 6, 1)
    assert (report.num_padding, report.fill) == (3, 17 / 20)


@pytest.mark.parametrize("strategy", WHOLE)
def test_samples_longer_than_a_row_are_refused(strategy):
    with pytest.raises(DataError, match=r"sample 1 of 3 has 9 tokens, the limit is 8; set tokenize\.excess_length"):
        pack_one_bucket([8, 9, 1], 8, strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_samples_without_tokens_are_refused(strategy):
    with pytest.raises(DataError, match="sample 2 of 3 has 0 tokens"):
        pack_one_bucket([1, 2, 0], 8, strategy)


def test_samples_beyond_32_bits_are_refused_before_they_are_split():
    with pytest.raises(DataError, match="has 2147483648 tokens"):
        pack_one_bucket([2**31], 8, "packed")


def test_wrong_packing_options_are_refused():
    with pytest.raises(RecipeError, match="did you mean 'best_fit'"):
        pack_one_bucket([1], 8, "bestfit")
    with pytest.raises(RecipeError, match="a row needs at least 1 token"):
        pack_one_bucket([1], 0, "packed")


@pytest.mark.parametrize("ends", [[], [1], [3], [2, 1, 2], [-1, 2]])
def test_buckets_that_do_not_cover_the_samples_are_refused(ends):
    with pytest.raises(ConservationError, match="do not cover 2 samples"):
        pack(np.array([1, 1]), np.array(ends, dtype=np.int64), strategy="padding", sequence_len=8)


@pytest.mark.skipif(not PARITY.exists(), reason="the parity records (shared/parity/blog_modes) are not beside this checkout")
def test_groups_equal_those_of_the_published_handlers():
    full = np.array([json.loads(line)["full_length"] for line in (PARITY / "lengths.jsonl").read_text().splitlines()])
    expected = [json.loads(line) for line in (PARITY / "expected.jsonl").read_text().splitlines()]
    assert {(case["mode"], case["max_length"]) for case in expected} >= {("concat", 1024), ("packed", 128), ("padding", 256)}
    for case in expected:
        sequence_len, strategy = case["max_length"], case["mode"]
        lengths = full if strategy == "packed" else np.minimum(full, sequence_len)
        plan = pack_one_bucket(lengths, sequence_len, strategy)
        report = report_packing(plan, lengths, strategy=strategy, sequence_len=sequence_len)
        packed_rows = [[list(segment) for segment in row] for row in rows_of(plan, "item", "length")]
        assert (packed_rows if strategy == "packed" else items_of(plan)) == case["groups"]
        assert row_tokens(plan) == case["sequence_lengths"]
        assert report.num_split_samples == case["samples_split_across_sequences"]
