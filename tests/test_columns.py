"""Columns in files and in blocks of three rows hold what plain arrays hold, and so do mixes and plans that are made of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sftdata import columns, mixing, packing, shuffling
from sftdata.errors import StorageError

SMALL_NUMBERS = st.lists(st.integers(0, 9), max_size=40).map(lambda values: np.array(values, dtype=np.int32))
HASHES = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), max_size=40).map(
    lambda values: np.array(values, dtype=np.uint64)
)


@contextmanager
def tiny_blocks(folder: Path) -> Iterator[None]:
    """Compute three rows at once, sort two at once, and put columns of 100 bytes into a file."""
    with pytest.MonkeyPatch.context() as patch, columns.scratch(folder):
        for name, value in (("BLOCK", 3), ("PILE", 2), ("SMALL", 100)):
            patch.setattr(columns, name, value)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where columns lie."""
    return tmp_path_factory.mktemp("columns")


@given(SMALL_NUMBERS, st.data())
def test_columns_are_taken_counted_and_summed(folder: Path, values: np.ndarray, data: st.DataObject) -> None:
    index = np.array(data.draw(st.lists(st.integers(0, max(len(values) - 1, 0)), max_size=20 * len(values))), dtype=np.int64)
    sizes = values[values > 0]
    starts = np.append(0, np.cumsum(sizes))
    items = np.arange(starts[-1], dtype=np.uint64) * np.uint64(2**60 + 1)
    with tiny_blocks(folder):
        assert columns.take(values, index).tolist() == values[index].tolist()
        assert columns.counts(values, 4).tolist() == np.bincount(values, minlength=4).tolist()
        assert columns.places(len(values), lambda rows: values[rows] > 4).tolist() == np.flatnonzero(values > 4).tolist()
        assert columns.offsets(sizes).tolist() == starts.tolist()
        assert columns.starts(values).tolist() == [*np.flatnonzero(np.diff(values, prepend=-1)).tolist(), len(values)]
        if len(sizes):
            assert columns.sums(items, starts).tolist() == np.add.reduceat(items, starts[:-1]).tolist()
            assert columns.lowest(items, starts).tolist() == np.minimum.reduceat(items, starts[:-1]).tolist()


@given(HASHES)
def test_rows_are_ordered_by_key_and_grouped_with_ties_in_order(folder: Path, keys: np.ndarray) -> None:
    digits = (keys % np.uint64(5)).astype(np.int64)
    with tiny_blocks(folder):
        assert columns.order_by(keys).tolist() == np.argsort(keys, kind="stable").tolist()
        assert columns.group(len(keys), lambda rows: digits[rows], 5).tolist() == np.argsort(digits, kind="stable").tolist()
        owners = [owner for _, pile in columns.piles(keys) for owner in pile.tolist()]
    assert sorted(owners) == list(range(len(keys)))


def plans(seed: int) -> list[Any]:
    """Return mixes and plans of random samples, as lists."""
    random = np.random.default_rng(seed)
    num, longest = int(random.integers(0, 60)), int(random.integers(1, 40))
    lengths = random.integers(1, longest + 1, num).astype(np.int32)
    identity = shuffling.row_identity(random.integers(0, num // 2 + 1, num).astype(np.uint64) << np.uint64(58))
    category, copies = (random.integers(0, 4, num).astype(np.int32) for _ in range(2))
    mixes = [
        mixing.concat(identity, seed=seed),
        mixing.buckets(identity, category, bins=3, seed=seed, shuffle=bool(seed % 2)),
        mixing.weighted(identity, category, copies, seed=seed),
    ]
    found: list[Any] = []
    for mixed in mixes:
        found += [column.tolist() for column in (mixed.order, mixed.copy, mixed.bucket_ends, mixed.keys)]
        for strategy in packing.STRATEGIES:
            mine = lengths[mixed.order] * (3 if strategy == "packed" else 1)
            plan = packing.pack(mine, mixed.bucket_ends, strategy=strategy, sequence_len=longest, keys=mixed.keys)
            found += [column.tolist() for column in (plan.pack_offsets, plan.item, plan.start, plan.length, plan.bucket_rows)]
            found.append(packing.report_packing(plan, mine, strategy=strategy, sequence_len=longest))
    return found


@settings(max_examples=10)
@given(st.integers(0, 2**32))
def test_plans_do_not_depend_on_blocks_and_files(folder: Path, seed: int) -> None:
    expected = plans(seed)
    with tiny_blocks(folder):
        assert plans(seed) == expected


def test_large_columns_lie_in_files_and_small_ones_do_not(folder: Path) -> None:
    with columns.scratch(folder):
        before = len(os.listdir("/proc/self/fd"))
        large, small = (columns.zeros(size, np.int8) for size in (columns.SMALL + 1, columns.SMALL))
        assert len(os.listdir("/proc/self/fd")) == before + 1, "the mapping of the large one holds its file"
        large[:] = 1
        assert (large.base is not None, small.base) == (True, None) and large.sum() == len(large)
    assert not list(folder.iterdir()), "the files have no name"
    assert columns.zeros(columns.SMALL + 1, np.int8).base is None


def test_full_disk_is_an_error_and_kills_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with columns.scratch(folder), pytest.raises(StorageError, match="No space left on device; free some space"):
        columns.empty(columns.SMALL + 1, np.int8)
