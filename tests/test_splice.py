"""Splicing in order: no token lost as we do it, and exactly the published class's rows, losses included, where asked."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise

import numpy as np
import pytest
from build_support import needs_shared
from hypothesis import given
from hypothesis import strategies as st

from sftdata.packing import Original, pack, pack_as_original, report_packing


def one_bucket(lengths):
    return np.array([len(lengths)])


def groups_of(plan):
    return [plan.item[first:end].tolist() for first, end in pairwise(plan.pack_offsets.tolist())]


def row_lengths(plan):
    return [int(plan.length[first:end].sum()) for first, end in pairwise(plan.pack_offsets.tolist())]


def as_original(lengths, sequence_len, *, num_packed_sequences=8, seed=None, trained_head=None):
    lengths = np.array(lengths, dtype=np.int64)
    head = np.ones(len(lengths), bool) if trained_head is None else np.array(trained_head, dtype=bool)
    original = Original(num_packed_sequences, seed)
    return pack_as_original(lengths, one_bucket(lengths), sequence_len=sequence_len, original=original, trained_head=head)


def next_fit(lengths, sequence_len):
    rows, room = [], 0
    for item, length in enumerate(lengths):
        if length > room:
            rows.append([])
            room = sequence_len
        rows[-1].append(item)
        room -= length
    return rows


@given(st.lists(st.integers(1, 20), max_size=60), st.integers(20, 30))
def test_splice_opens_a_row_where_the_next_sample_does_not_fit(lengths, sequence_len):
    lengths = np.array(lengths, dtype=np.int64)
    plan = pack(lengths, one_bucket(lengths), strategy="splice", sequence_len=sequence_len)
    assert groups_of(plan) == next_fit(lengths.tolist(), sequence_len)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 5))
def test_splice_as_published_keeps_or_loses_every_sample_whole(lengths, num_packed_sequences):
    plan = as_original(lengths, 20, num_packed_sequences=num_packed_sequences)
    report = report_packing(plan, np.array(lengths), strategy="splice", sequence_len=20)
    assert len(set(plan.item.tolist())) == len(plan.item) == len(lengths) - report.num_samples_lost
    lost = set(range(len(lengths))) - set(plan.item.tolist())
    assert report.num_tokens_lost == sum(lengths[item] for item in lost)
    assert report.num_rows >= report.lower_bound and report.num_split_samples == 0


def test_splice_as_published_throws_away_the_open_row_of_every_buffer_but_the_last():
    plan = as_original([3, 3, 3, 3, 3], 4, num_packed_sequences=2)
    assert groups_of(plan) == [[0], [1], [3], [4]]
    assert groups_of(as_original([3, 3, 3], 4, num_packed_sequences=2)) == [[0], [1]], "the last sample fills a buffer"


def test_splice_as_published_cuts_what_is_longer_than_a_row_and_leaves_out_untrained_heads():
    plan = as_original([2, 9, 7, 1], 4, num_packed_sequences=100, trained_head=[True, True, False, True])
    assert groups_of(plan) == [[1], [0, 3]] and row_lengths(plan) == [4, 3]
    report = report_packing(plan, np.array([2, 9, 7, 1]), strategy="splice", sequence_len=4)
    assert (report.num_tokens_lost, report.num_samples_lost) == (5 + 7, 1)


def test_splice_loses_nothing_where_the_published_class_does():
    lengths = np.random.default_rng(3).integers(1, 200, 500)
    lost = report_packing(as_original(lengths, 256), lengths, strategy="splice", sequence_len=256).num_tokens_lost
    plan = pack(lengths, one_bucket(lengths), strategy="splice", sequence_len=256)
    assert lost > 1000
    assert report_packing(plan, lengths, strategy="splice", sequence_len=256).num_tokens_lost == 0


def records_by_id(max_length):
    path = needs_shared("parity", "colossal_pretrain", "public", "expected.jsonl")
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    return {row["id"]: row for row in records if row["max_length"] == max_length and "input_ids" in row}


def test_rows_equal_those_of_the_published_class():
    path = needs_shared("parity", "colossal_splice", "public", "expected.jsonl")
    cases = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert len(cases) == 24 and sum(case["shuffle"] for case in cases) == 8 and sum(case["tokens_lost"] for case in cases)
    for case in cases:
        records = records_by_id(case["tokenize_max_length"])
        fed = [records[row_id] for row_id in case["input_order"]]
        sequence_len = case["splice_max_length"]
        heads = [any(label != -100 for label in row["labels"][:sequence_len]) for row in fed]
        lengths = np.array([len(row["input_ids"]) for row in fed])
        options = {"num_packed_sequences": case["num_packed_sequences"], "seed": case["random_seed"], "trained_head": heads}
        plan = as_original(lengths, sequence_len, **options)
        assert [[case["input_order"][item] for item in row] for row in groups_of(plan)] == case["groups"]
        assert row_lengths(plan) == case["lengths"]
        report = report_packing(plan, lengths, strategy="splice", sequence_len=sequence_len)
        assert (report.num_tokens_lost, report.num_samples_lost) == (case["tokens_lost"], len(case["records_lost"]))
        assert report.fill == pytest.approx(case["fill_ratio"], abs=1e-6)
        tokens = [[fed[item] for item in row] for row in groups_of(plan)]
        assert [digest_of(rows, sequence_len) for rows in tokens] == case["sequence_sha256"]


def digest_of(rows, sequence_len):
    joined = [[token for row in rows for token in row[name][:sequence_len]] for name in ("input_ids", "labels")]
    return hashlib.sha256(json.dumps(joined, separators=(",", ":")).encode()).hexdigest()[:16]
