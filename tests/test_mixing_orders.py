"""Orders that follow a value: curriculum, the published percent slices, groups of similar length."""

from __future__ import annotations

import hashlib
import json
import math
from itertools import pairwise

import numpy as np
import pytest
from build_support import needs_shared
from hypothesis import given
from hypothesis import strategies as st

from sftdata import curriculum, mixing
from sftdata.packing import Original, pack_as_original, report_packing

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=80)


def identities(num_rows):
    return np.arange(num_rows, dtype=np.uint64) * np.uint64(2**50 + 3)


def buckets_of(mixed):
    return [mixed.order[first:end] for first, end in zip([0, *mixed.bucket_ends[:-1]], mixed.bucket_ends, strict=True)]


@given(LENGTHS, st.integers(1, 12), st.booleans(), st.integers(0, 99))
def test_curriculum_rises_from_bucket_to_bucket(values, bins, shuffle, seed):
    values = np.array(values)
    mixed = mixing.curriculum(identities(len(values)), values, bins=bins, seed=seed, shuffle=shuffle)
    assert sorted(mixed.order.tolist()) == list(range(len(values))) and len(mixed.bucket_ends) == bins
    filled = [values[bucket] for bucket in buckets_of(mixed) if len(bucket)]
    assert all(low.max() <= high.min() for low, high in pairwise(filled))
    sizes = [len(bucket) for bucket in buckets_of(mixed)]
    assert max(sizes) - min(sizes) <= 1
    if not shuffle:
        assert (np.diff(values[mixed.order]) >= 0).all()


def test_curriculum_is_shuffled_inside_its_buckets_and_takes_floats():
    values = np.linspace(0, 1, 200)
    mixed = mixing.curriculum(identities(200), values, bins=4, seed=5)
    assert all((np.diff(bucket) < 0).any() for bucket in buckets_of(mixed))
    assert [set(bucket) for bucket in buckets_of(mixed)] == [set(range(first, first + 50)) for first in (0, 50, 100, 150)]


@given(LENGTHS, st.integers(2, 9), st.integers(0, 99))
def test_groups_of_similar_length_keep_every_row_and_its_copy(lengths, group_rows, seed):
    lengths = np.array(lengths)
    copies = 1 + np.arange(len(lengths)) % 3
    before = mixing.weighted(identities(len(lengths)), np.zeros(len(lengths), np.int32), copies, seed=seed)
    after = mixing.group_by_length(before, lengths, group_rows=group_rows, seed=seed)
    assert after.bucket_ends.tolist() == before.bucket_ends.tolist()
    pairs = [[*zip(mixed.order.tolist(), mixed.copy.tolist(), mixed.keys.tolist(), strict=True)] for mixed in (before, after)]
    for first, end in zip([0, *before.bucket_ends[:-1]], before.bucket_ends, strict=True):
        assert sorted(pairs[0][first:end]) == sorted(pairs[1][first:end])
        rising = np.sort(lengths[after.order[first:end]])
        for place in range(first, end, group_rows):
            group = np.sort(lengths[after.order[place : min(place + group_rows, end)]])
            assert any(
                group.tolist() == rising[start : start + len(group)].tolist() for start in range(0, len(rising), group_rows)
            )


def test_groups_of_similar_length_save_padding_and_stand_in_seeded_order():
    lengths = np.random.default_rng(2).integers(1, 500, 640)
    mixed = mixing.concat(identities(640), seed=1)
    grouped = [mixing.group_by_length(mixed, lengths, group_rows=16, seed=seed) for seed in (1, 2)]
    padding = [(np.ptp(lengths[each.order].reshape(-1, 8), axis=1)).mean() for each in (mixed, *grouped)]
    assert padding[1] < padding[0] / 20
    assert grouped[0].order.tolist() != grouped[1].order.tolist()
    longest = lengths[grouped[0].order].reshape(-1, 16).max(axis=1)
    assert abs(np.corrcoef(np.arange(40), longest)[0, 1]) < 0.5


def test_percent_slices_are_those_of_the_published_script():
    table = json.loads(needs_shared("parity", "colossal_splice", "bins_table.json").read_text())
    for case in table["bin_count"]:
        assert len(mixing.percent_ends(10**6, case["num_spliced_dataset_bins"])) == case["actual_parts"]
    for case in table["row_ranges"]:
        ends = mixing.percent_ends(case["n_rows"], case["bins"]).tolist()
        assert [list(pair) for pair in zip([0, *ends], ends, strict=False)] == case["row_ranges"]
    assert len(table["bin_count"]) > 10 and sum(case["empty_parts"] for case in table["row_ranges"])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=60), st.integers(1, 120))
def test_percent_sorts_each_slice_by_category_and_length(rows, bins):
    category, lengths = (np.array([row[column] for row in rows], dtype=np.int64) for column in (0, 1))
    mixed = mixing.percent(identities(len(rows)), category, lengths, bins=bins, seed=1)
    first = 0
    for bucket in buckets_of(mixed):
        assert sorted(bucket.tolist()) == list(range(first, first + len(bucket)))
        assert bucket.tolist() == sorted(bucket.tolist(), key=lambda row: (*rows[row], row))
        first += len(bucket)
    assert first == len(rows)


def digest(value):
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def test_sorted_and_spliced_real_lengths_equal_the_published_class():
    data = json.loads(needs_shared("parity", "colossal_splice", "large_lengths.json").read_text())
    category = np.unique(data["category"], return_inverse=True)[1]
    assert len(data["results"]) == 5 and sum(case["tokens_lost"] for case in data["results"]) > 100_000
    for case in data["results"]:
        sequence_len = case["max_length"]
        lengths = np.minimum(data["length"], sequence_len)
        mixed = mixing.percent(identities(len(lengths)), category, lengths, bins=1, seed=1)
        fed = lengths[mixed.order]
        plan = pack_as_original(
            fed,
            mixed.bucket_ends,
            sequence_len=sequence_len,
            original=Original(case["num_packed_sequences"]),
            trained_head=np.ones(len(fed), bool),
        )
        report = report_packing(plan, fed, strategy="splice", sequence_len=sequence_len)
        assert (report.num_tokens_lost, report.num_samples_lost) == (case["tokens_lost"], case["records_lost"])
        rows = np.split(plan.item, plan.pack_offsets[1:-1])
        assert digest([mixed.order[row].tolist() for row in rows]) == case["groups_sha256"]
        assert digest([int(fed[row].sum()) for row in rows]) == case["lengths_sha256"]
        assert report.fill == pytest.approx(case["fill_ratio"], abs=1e-6)


@pytest.mark.parametrize("text, number", [("1.5", 1.5), ("-2e3", -2000.0), (".5", 0.5), ("7", 7.0)])
def test_texts_that_are_numbers_order_a_curriculum(text, number):
    assert curriculum._number(text) == number


@pytest.mark.parametrize("text", ["1_000", " 12 ", "nan", "inf", "", "1e", "٣", True, None])
def test_what_python_alone_takes_for_a_number_does_not(text):
    assert math.isnan(curriculum._number(text))
