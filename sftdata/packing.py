"""Decide which samples share a row of `sequence_len` tokens: integers in, integers out.

best_fit  whole samples, each in the fullest row that still has room, longest first: nearly as few rows as possible
concat    whole samples, a long one filled up with the shortest that remain: more unused room
packed    all samples as one stream that is cut every `sequence_len` tokens: no unused room, but samples are split
padding   one sample a row

Rows are made inside each bucket. Loops run over buckets and distinct lengths, never over samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sftdata.errors import ConservationError, DataError, RecipeError, suggest

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

_MAX_SAMPLE_TOKENS = 2**31 - 1  # `start` and `length` are int32, as are the list offsets of the shards


@dataclass(frozen=True, eq=False)
class Plan:
    """Which segment of which sample stands where: packed row r holds segments pack_offsets[r] to pack_offsets[r + 1] - 1.

    pack_offsets: (num_rows + 1,). item: (num_segments,) the sample, as a place in the order that was packed.
    start, length: (num_segments,) first token of the segment in its sample, and its number of tokens.
    bucket_rows: (num_buckets,) number of packed rows of every bucket, whose rows follow each other.
    """

    pack_offsets: Int64
    item: Int64
    start: Int32
    length: Int32
    bucket_rows: Int64


@dataclass(frozen=True)
class PackingReport:
    """How full the rows of a plan are. Counts in rows, segments, tokens and samples; `fill` is a share of 1.

    num_padding is the room that is left in the rows, which shards do not store. No packing under the same rules (buckets, and
    samples whole unless the strategy splits them) has fewer rows than lower_bound.
    """

    num_rows: int
    num_segments: int
    num_tokens_in: int
    num_tokens_out: int
    num_padding: int
    fill: float
    lower_bound: int
    num_split_samples: int


class _Rows(NamedTuple):
    """Rows of one bucket: segments of each row, then per segment the sample, its first token and its number of tokens."""

    sizes: Int64
    item: Int64
    start: Int32
    length: Int32


def pack(lengths: Int64, bucket_ends: Int64, *, strategy: str, sequence_len: int, keys: UInt64 | None = None) -> Plan:
    """Pack samples into rows of at most `sequence_len` tokens, bucket by bucket.

    lengths: (n,) tokens of each sample, in mixed order. bucket_ends: (num_buckets,) where each bucket ends in that order.
    keys: (n,) seeded hashes of the samples. `best_fit` and `concat`, which make rows in order of length, then put the rows of
    each bucket in the order of the sums of their samples' keys (modulo 2**64), ties in the order they were made; without keys
    rows stay as they were made. `packed` and `padding` keep the mixed order, which is shuffled already.

    Raises RecipeError for an unknown strategy and DataError for a sample of no tokens or, unless samples may be split, of more
    than `sequence_len`.
    """
    if strategy not in STRATEGIES:
        raise RecipeError(f"pack.strategy: unknown strategy {strategy!r}{suggest(strategy, STRATEGIES)}")
    _check_input(lengths, bucket_ends, sequence_len, may_split=strategy == "packed")
    buckets = []
    for first, end in zip([0, *bucket_ends[:-1].tolist()], bucket_ends.tolist(), strict=True):
        rows = _MAKE_ROWS[strategy](lengths[first:end], sequence_len)
        if keys is not None and strategy in ("best_fit", "concat"):
            rows = _order_rows(rows, keys[first:end])
        buckets.append(rows._replace(item=rows.item + first))
    plan = Plan(
        pack_offsets=_offsets(np.concatenate([rows.sizes for rows in buckets])),
        item=np.concatenate([rows.item for rows in buckets]),
        start=np.concatenate([rows.start for rows in buckets]),
        length=np.concatenate([rows.length for rows in buckets]),
        bucket_rows=np.array([len(rows.sizes) for rows in buckets], dtype=np.int64),
    )
    if plan.length.sum(dtype=np.int64) != lengths.sum():
        raise ConservationError(f"packing {lengths.sum()} tokens gave {plan.length.sum(dtype=np.int64)}; please report this")
    return plan


def report_packing(plan: Plan, lengths: Int64, bucket_ends: Int64, *, strategy: str, sequence_len: int) -> PackingReport:
    """Count what a plan made of `lengths`, and compare its rows with the lower bound. Arguments as for `pack`."""
    num_tokens_out = int(plan.length.sum(dtype=np.int64))
    room = int(plan.bucket_rows.sum()) * sequence_len
    samples = np.split(lengths, bucket_ends[:-1])
    bound = _token_bound if strategy == "packed" else lower_bound
    return PackingReport(
        num_rows=len(plan.pack_offsets) - 1,
        num_segments=len(plan.item),
        num_tokens_in=int(lengths.sum()),
        num_tokens_out=num_tokens_out,
        num_padding=room - num_tokens_out,
        fill=num_tokens_out / room if room else 1.0,
        lower_bound=sum(bound(bucket, sequence_len) for bucket in samples),
        num_split_samples=int(np.count_nonzero((plan.start == 0) & (plan.length < lengths[plan.item]))),
    )


def lower_bound(lengths: Int64, sequence_len: int) -> int:
    """Return a number of rows below which whole samples cannot be packed. lengths: (n,), each at most `sequence_len`.

    For every threshold t up to half a row: samples longer than half a row share none, and what is not longer than a half but at
    least t fits only into the room beside those of at most sequence_len - t. This is the bound L2 of Martello and Toth ("Lower
    bounds and reduction procedures for the bin packing problem", Discrete Applied Mathematics 28, 1990); t = 1 is the number
    of tokens divided by `sequence_len`, rounded up.
    """
    half = sequence_len // 2
    counts = np.bincount(lengths, minlength=sequence_len + 1)
    num_up_to = np.cumsum(counts)
    tokens_up_to = np.cumsum(counts * np.arange(sequence_len + 1))
    threshold = np.arange(1, max(half, 1) + 1)
    num_large = num_up_to[-1] - num_up_to[half]
    num_beside = num_up_to[sequence_len - threshold] - num_up_to[half]
    room_beside = num_beside * sequence_len - (tokens_up_to[sequence_len - threshold] - tokens_up_to[half])
    small_tokens = tokens_up_to[half] - tokens_up_to[threshold - 1]
    num_more = np.maximum(-((room_beside - small_tokens) // sequence_len), 0)
    return int(num_large + num_more.max())


def _token_bound(lengths: Int64, sequence_len: int) -> int:
    return -(-int(lengths.sum()) // sequence_len)


def _best_fit(lengths: Int64, sequence_len: int) -> _Rows:
    """Put every sample, longest first, into the fullest row with room for it: best-fit decreasing, in steps of many samples.

    Rows that were filled alike are one run of consecutive rows, so a step is: `times` samples of one length go into each of
    `num_rows` rows from `first_row` on, behind the `size` segments that are there. Samples of equal length keep their order.
    """
    steps = np.array(_best_fit_steps(lengths, sequence_len), dtype=np.int64).reshape(-1, 4)
    first_row, num_rows, times, size = steps.T
    row = np.repeat(first_row - (np.cumsum(num_rows) - num_rows), num_rows) + np.arange(num_rows.sum())
    times, size = np.repeat(times, num_rows), np.repeat(size, num_rows)
    sizes = np.bincount(row, weights=times).astype(np.int64)
    place = np.repeat(_offsets(sizes)[row] + size - (np.cumsum(times) - times), times) + np.arange(len(lengths))
    item = np.empty(len(lengths), dtype=np.int64)
    item[place] = _longest_first(lengths, sequence_len)
    return _whole_samples(sizes, item, lengths)


def _best_fit_steps(lengths: Int64, sequence_len: int) -> list[tuple[int, int, int, int]]:
    """Return the steps (first_row, num_rows, times, size) of best-fit decreasing, in order of falling length.

    A row that takes one sample and has room for a second of that length is still the best fit, hence `times`. Bit r of
    `with_room` is set when some rows have r tokens of room, so the best fit is its lowest set bit from `length` up.
    """
    steps: list[tuple[int, int, int, int]] = []
    runs: dict[int, list[tuple[int, int, int]]] = {}
    with_room = num_rows = 0
    counts = np.bincount(lengths)
    for length in np.flatnonzero(counts)[::-1].tolist():
        remaining = int(counts[length])
        while remaining:
            fitting = with_room >> length
            room = length + (fitting & -fitting).bit_length() - 1 if fitting else sequence_len
            times = min(room // length, remaining)
            if fitting:
                first, num, size = runs[room].pop()
                if not runs[room]:
                    with_room ^= 1 << room
            else:
                first, num, size = num_rows, remaining // times, 0
                num_rows += num
            num_used = min(num, remaining // times)
            steps.append((first, num_used, times, size))
            remaining -= num_used * times
            used = (room - times * length, first, num_used, size + times)
            unused = (room, first + num_used, num - num_used, size)
            for left, first, num, size in (used, unused):
                if num:
                    runs.setdefault(left, []).append((first, num, size))
                    with_room |= 1 << left
    return steps


def _concat(lengths: Int64, sequence_len: int) -> _Rows:
    """Fill the longest sample up with the shortest that remain, then the next longest, and so on."""
    order = _longest_first(lengths, sequence_len)
    runs = np.array(_concat_runs(lengths[order], sequence_len), dtype=np.int64).reshape(-1, 2)
    sizes = 1 + np.repeat(runs[:, 1], runs[:, 0])
    opens_row = np.zeros(len(order), dtype=bool)
    opens_row[_offsets(sizes)[:-1]] = True
    item = np.empty_like(order)
    item[opens_row] = order[: len(sizes)]
    item[~opens_row] = order[len(sizes) :][::-1]
    return _whole_samples(sizes, item, lengths)


def _concat_runs(falling: Int64, sequence_len: int) -> list[tuple[int, int]]:
    """Return runs (number of rows, short samples behind the long one of each) for lengths sorted from long to short."""
    runs: list[tuple[int, int]] = []
    tokens_before = _offsets(falling)
    longer_than = (len(falling) - np.cumsum(np.bincount(falling, minlength=sequence_len + 1))).tolist()
    first, end = 0, len(falling)
    while first < end:
        longest, shortest = int(falling[first]), int(falling[end - 1])
        room = sequence_len - longest
        num_fitting = room // shortest
        num_longest = min(longer_than[longest - 1], end) - first
        if not num_fitting:
            num, fills = min(longer_than[sequence_len - shortest], end) - first, 0
        elif longest == shortest:
            num, fills = num_longest // (num_fitting + 1), num_fitting
        else:
            num, fills = min(num_longest, (end - longer_than[shortest]) // num_fitting), num_fitting
        if not num:
            begin = np.searchsorted(tokens_before, tokens_before[end] - room)
            num, fills = 1, end - max(int(begin), first + 1)
        runs.append((num, fills))
        first, end = first + num, end - num * fills
    return runs


def _packed(lengths: Int64, sequence_len: int) -> _Rows:
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
    return _Rows(np.bincount(segment_starts[:-1] // sequence_len), item, start.astype(np.int32), length.astype(np.int32))


def _padding(lengths: Int64, sequence_len: int) -> _Rows:
    """Give every sample a row of its own."""
    return _whole_samples(np.ones(len(lengths), dtype=np.int64), np.arange(len(lengths), dtype=np.int64), lengths)


_MAKE_ROWS: dict[str, Callable[[Int64, int], _Rows]] = {
    "best_fit": _best_fit,
    "concat": _concat,
    "packed": _packed,
    "padding": _padding,
}
STRATEGIES = tuple(_MAKE_ROWS)


def _check_input(lengths: Int64, bucket_ends: Int64, sequence_len: int, *, may_split: bool) -> None:
    if sequence_len < 1:
        raise RecipeError(f"tokenize.sequence_len: {sequence_len}; a row needs at least 1 token")
    if not len(bucket_ends) or bucket_ends[-1] != len(lengths) or (np.diff(bucket_ends, prepend=0) < 0).any():
        raise ConservationError(f"the buckets {bucket_ends} do not cover {len(lengths)} samples; please report this")
    if len(empty := np.flatnonzero(lengths < 1)):
        raise DataError(f"sample {empty[0]} of {len(lengths)} has {lengths[empty[0]]} tokens; drop empty samples first")
    limit = _MAX_SAMPLE_TOKENS if may_split else sequence_len
    if len(excess := np.flatnonzero(lengths > limit)):
        cure = "split it first" if may_split else "set tokenize.excess_length, or pack.strategy: packed"
        raise DataError(f"sample {excess[0]} of {len(lengths)} has {lengths[excess[0]]} tokens, the limit is {limit}; {cure}")


def _order_rows(rows: _Rows, keys: UInt64) -> _Rows:
    """Sort rows of whole samples by the sum of their samples' keys: it depends on what is in a row, not on how it was found."""
    if not len(rows.sizes):
        return rows
    offsets = _offsets(rows.sizes)
    order = np.argsort(np.add.reduceat(keys[rows.item], offsets[:-1]), kind="stable")
    sizes = rows.sizes[order]
    segment = np.repeat(offsets[:-1][order] - _offsets(sizes)[:-1], sizes) + np.arange(len(rows.item))
    return _Rows(sizes, rows.item[segment], rows.start, rows.length[segment])


def _whole_samples(sizes: Int64, item: Int64, lengths: Int64) -> _Rows:
    return _Rows(sizes, item, np.zeros(len(item), dtype=np.int32), lengths[item].astype(np.int32))


def _longest_first(lengths: Int64, sequence_len: int) -> Int64:
    """Return the indices of `lengths` from long to short, ties in order. NumPy sorts 16-bit integers in linear time."""
    return np.argsort((sequence_len - lengths).astype(np.min_scalar_type(sequence_len)), kind="stable")


def _offsets(sizes: Int64) -> Int64:
    """Return where each part starts when parts of `sizes` (n,) follow each other, and where the last ends: (n + 1,)."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes, dtype=np.int64)])
