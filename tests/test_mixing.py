"""The order of rows: every row once, the same for any listing, and even along the whole training."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftdata import mixing
from sftdata.shuffling import fold_digests, keyed_hash, keyed_order, row_identity

SEEDS = st.integers(-(2**70), 2**70)
CATEGORIES = st.lists(st.integers(-3, 3), max_size=120)


def digests_of(contents):
    digests = [hashlib.blake2b(repr(content).encode(), digest_size=16).digest() for content in contents]
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16)


def identities(contents):
    return row_identity(fold_digests(digests_of(contents)))


def mix_rows(contents, category=None, *, strategy="concat", seed=42, **options):
    if strategy == "concat":
        return mixing.concat(identities(contents), seed=seed, **options)
    category = np.zeros(len(contents), dtype=np.int64) if category is None else np.array(category, dtype=np.int64)
    return mixing.buckets(identities(contents), category, seed=seed, **options)


def buckets_of(mixed):
    return np.split(mixed.order, mixed.bucket_ends[:-1])


@given(CATEGORIES, st.integers(1, 12), st.booleans(), SEEDS)
def test_mixing_keeps_every_row_once(category, bins, shuffle, seed):
    for options in ({"strategy": "concat"}, {"strategy": "buckets", "bins": bins}):
        mixed = mix_rows(range(len(category)), category, shuffle=shuffle, seed=seed, **options)
        assert sorted(mixed.order.tolist()) == list(range(len(category)))
        assert len(mixed.bucket_ends) == options.get("bins", 1)
        assert mixed.bucket_ends[-1] == len(category) and (np.diff(mixed.bucket_ends, prepend=0) >= 0).all()
        assert (mixed.order.dtype.kind, mixed.bucket_ends.dtype, mixed.keys.dtype) == ("i", np.int64, np.uint64)


def test_concat_without_shuffle_keeps_the_given_order():
    assert mix_rows(range(50), shuffle=False).order.tolist() == list(range(50))


def test_concat_with_shuffle_depends_on_the_seed_alone():
    first, again, other = (mix_rows(range(200), seed=seed).order.tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other and first != list(range(200))


def test_the_order_for_a_seed_never_changes():
    mixed = mix_rows(range(8), [0, 1] * 4, strategy="buckets", bins=2, seed=7)
    assert mixed.order.tolist() == [0, 3, 2, 5, 6, 7, 4, 1]
    assert int(mixed.keys[0]) == 8438050528407025748


def test_shuffle_is_uniform_enough():
    position = np.argsort([mix_rows(range(20), seed=seed).order for seed in range(400)], axis=1)
    assert position.shape == (400, 20)
    assert np.abs(position.mean(axis=0) - 9.5).max() < 4 * 5.77 / 20  # four standard errors of a uniform place


@given(st.lists(st.integers(0, 40), min_size=1, max_size=80), st.randoms(use_true_random=False), SEEDS)
def test_mixing_gives_the_same_contents_for_any_listing(contents, random, seed):
    listing = random.sample(contents, len(contents))
    for options in ({"strategy": "concat"}, {"strategy": "buckets", "bins": 4}):
        one, other = (mix_rows(rows, [row % 3 for row in rows], seed=seed, **options) for rows in (contents, listing))
        assert [contents[row] for row in one.order] == [listing[row] for row in other.order]
        assert one.keys.tolist() == other.keys.tolist()
        assert one.bucket_ends.tolist() == other.bucket_ends.tolist()


def test_added_rows_leave_the_order_of_the_others():
    before = mix_rows(range(300)).order
    after = mix_rows(range(400)).order
    assert len(after) == 400
    assert after[after < 300].tolist() == before.tolist()


def test_an_added_row_moves_few_rows_to_another_bucket():
    before, after = (
        np.searchsorted(mixed.bucket_ends, np.argsort(mixed.order), side="right")
        for mixed in (mix_rows(range(num_rows), strategy="buckets", bins=10) for num_rows in (1000, 1001))
    )
    assert set(before) == set(range(10))
    assert np.count_nonzero(before != after[:1000]) <= 2 * 10


def test_exact_copies_do_not_stay_side_by_side():
    contents = [row // 4 for row in range(400)]
    copies = np.array(contents)[mix_rows(contents).order]
    assert len(np.unique(copies)) == 100
    assert np.count_nonzero(copies[1:] == copies[:-1]) < 20


def test_row_identity_differs_between_copies_and_not_between_listings():
    one, other = identities("abca"), identities("baac")
    assert len(set(one.tolist())) == 4
    assert one.tolist() == other[[1, 0, 3, 2]].tolist()


def test_digests_as_words_are_the_same_as_bytes():
    digests = digests_of(range(30))
    assert fold_digests(digests).tolist() == fold_digests(digests.view("<u8").astype(np.uint64)).tolist()


@pytest.mark.parametrize("digests", [np.zeros((3, 8), np.uint8), np.zeros((3, 2), np.int64), np.zeros(3, np.uint64)])
def test_digests_of_another_shape_are_refused(digests):
    with pytest.raises(ValueError, match="expected uint8"):
        fold_digests(digests)


def test_purposes_give_unrelated_orders():
    identity = identities(range(500))
    ranks = [np.argsort(keyed_order(identity, seed=1, purpose=purpose)) for purpose in ("order", "packs")]
    assert abs(np.corrcoef(ranks)[0, 1]) < 0.2
    assert len(np.unique(keyed_hash(identity, seed=1, purpose="order"))) == 500


@given(CATEGORIES, st.integers(1, 12), st.booleans(), SEEDS)
def test_buckets_are_even_within_one_row_of_every_category(category, bins, shuffle, seed):
    mixed = mix_rows(range(len(category)), category, strategy="buckets", bins=bins, shuffle=shuffle, seed=seed)
    for value in set(category):
        counts = [np.count_nonzero(np.array(category)[bucket] == value) for bucket in buckets_of(mixed)]
        assert sum(counts) == category.count(value)
        assert max(counts) - min(counts) <= 1


def test_buckets_spread_categories_with_fewer_rows_than_bins():
    category = np.repeat(np.arange(500), 2)
    buckets = buckets_of(mix_rows(range(1000), category, strategy="buckets", bins=10))
    assert min(len(bucket) for bucket in buckets) > 60 and max(len(bucket) for bucket in buckets) < 140
    bucket_of = np.argsort(np.concatenate(buckets), kind="stable")
    place = np.searchsorted(np.cumsum([len(bucket) for bucket in buckets]), bucket_of, side="right").reshape(500, 2)
    assert (np.abs(place[:, 0] - place[:, 1]) == 5).all()


def test_buckets_are_shuffled_inside_and_before_they_are_cut():
    first_bucket = buckets_of(mix_rows(range(100), strategy="buckets", bins=2))[0].tolist()
    assert first_bucket != sorted(first_bucket)
    assert max(first_bucket) >= 50


def test_buckets_without_shuffle_cut_the_given_order():
    category = [0, 1, 0, 0, 1, 0, 0, 1, 0, 1]
    for seed in (1, 2):
        mixed = mix_rows(range(10), category, strategy="buckets", bins=2, shuffle=False, seed=seed)
        assert [bucket.tolist() for bucket in buckets_of(mixed)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


@pytest.mark.parametrize("seed", range(4))
def test_buckets_of_a_category_do_not_depend_on_the_others(seed):
    alone = mix_rows(range(57), [5] * 57, strategy="buckets", bins=10, seed=seed)
    beside = mix_rows(range(90), [5] * 57 + [2] * 33, strategy="buckets", bins=10, seed=seed)
    assert len(buckets_of(alone)) == 10
    for one, other in zip(buckets_of(alone), buckets_of(beside), strict=True):
        assert one.tolist() == other[other < 57].tolist()
