"""Decide which samples share a row of `sequence_len` tokens: integers in, integers out.

best_fit  whole samples, each in the fullest row that still has room, longest first: nearly as few rows as possible
concat    whole samples, a long one filled up with the shortest that remain: more unused room
packed    all samples as one stream that is cut every `sequence_len` tokens: no unused room, but samples are split
splice    whole samples in their order, a new row where the next one does not fit
padding   one sample a row

Rows are made inside each bucket. Loops run over buckets, rows and distinct lengths, never over samples.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sftdata import columns
from sftdata.errors import ConservationError, DataError, RecipeError, suggest
from sftdata.packing.best_fit import best_fit_rows
from sftdata.packing.concat import concat_rows
from sftdata.packing.packed import packed_rows
from sftdata.packing.report import PackingReport, lower_bound, report_packing
from sftdata.packing.rows import Int64, Integers, Plan, Rows, UInt64, join, order_by_keys, order_by_place, whole_samples
from sftdata.packing.splice import splice_original, splice_rows

__all__ = ["STRATEGIES", "Original", "PackingReport", "Plan", "lower_bound", "pack", "pack_as_original", "report_packing"]

MAX_SAMPLE_TOKENS = 2**31 - 1
"""`start` and `length` are int32, as are the list offsets of the shards."""


def pack(lengths: Integers, bucket_ends: Int64, *, strategy: str, sequence_len: int, keys: UInt64 | None = None) -> Plan:
    """Pack samples into rows of at most `sequence_len` tokens, bucket by bucket.

    lengths: (n,) tokens of each sample, in mixed order. bucket_ends: (num_buckets,) where each bucket ends in that order.
    keys: (n,) seeded hashes of the samples. `best_fit` and `concat`, which make rows in order of length, then put the rows of
    each bucket in the order of the sums of their samples' keys (modulo 2**64), ties in the order they were made. Without keys
    the rows of `best_fit` follow the first of their samples in mixed order, and those of `concat` stay as they were made,
    longest first. The other strategies keep the mixed order.

    Raises RecipeError for an unknown strategy and DataError for a sample of no tokens or, unless samples may be split, of more
    than `sequence_len`.
    """
    if strategy not in STRATEGIES:
        raise RecipeError(f"pack.strategy: unknown strategy {strategy!r}{suggest(strategy, STRATEGIES)}")
    _check_input(lengths, bucket_ends, sequence_len, may_exceed=strategy == "packed")
    buckets = []
    for bucket in _buckets(bucket_ends):
        rows = _MAKE_ROWS[strategy](lengths[bucket], sequence_len)
        if keys is not None and strategy in ("best_fit", "concat"):
            rows = order_by_keys(rows, keys[bucket])
        elif strategy == "best_fit":
            rows = order_by_place(rows)
        buckets.append(_moved(rows, bucket.start, len(lengths)))
    plan = join(buckets)
    num_tokens, num_packed = (int(column.sum(dtype=np.int64)) for column in (lengths, plan.length))
    if num_packed != num_tokens:
        raise ConservationError(f"packing {num_tokens} tokens gave {num_packed}; please report this")
    return plan


class Original(NamedTuple):
    """How Colossal-LLaMA's splicing class is run.

    num_packed_sequences: rows' worth of tokens in a buffer. seed: of the shuffle of each buffer's rows, None for none; one
    generator serves all buckets, as one process does that calls `random.seed` once.
    """

    num_packed_sequences: int = 8
    seed: int | None = None


def pack_as_original(
    lengths: Integers, bucket_ends: Int64, *, sequence_len: int, original: Original, trained_head: npt.NDArray[np.bool_]
) -> Plan:
    """Splice as Colossal-LLaMA does, its loss of tokens included: `splice` with `pack.compat: original`.

    lengths, bucket_ends: as for `pack`, but samples may be longer than a row. trained_head: (n,) whether any of a sample's
    first `sequence_len` tokens is trained. `report_packing` counts what is lost.
    """
    _check_input(lengths, bucket_ends, sequence_len, may_exceed=True)
    generator = None if original.seed is None else random.Random(original.seed)
    buckets = []
    for bucket in _buckets(bucket_ends):
        rows = splice_original(
            lengths[bucket],
            sequence_len,
            num_packed_sequences=original.num_packed_sequences,
            trained_head=trained_head[bucket],
            generator=generator,
        )
        buckets.append(_moved(rows, bucket.start, len(lengths)))
    return join(buckets)


def _moved(rows: Rows, first: int, num_samples: int) -> Rows:
    """Return the rows of a bucket that begins with sample `first` of all."""
    kind = columns.index_type(num_samples)
    if not first and rows.item.dtype == kind:
        return rows
    return rows._replace(item=columns.computed(len(rows.item), kind, lambda segments: rows.item[segments] + first))


def _padding_rows(lengths: Integers, sequence_len: int) -> Rows:
    """Give every sample a row of its own."""
    num_samples = len(lengths)
    sizes = columns.computed(num_samples, np.int32, lambda rows: np.ones(rows.stop - rows.start, dtype=np.int32))
    item = columns.computed(num_samples, columns.index_type(num_samples), lambda rows: np.arange(rows.start, rows.stop))
    return whole_samples(sizes, item, lengths)


_MAKE_ROWS: dict[str, Callable[[Integers, int], Rows]] = {
    "best_fit": best_fit_rows,
    "concat": concat_rows,
    "packed": packed_rows,
    "splice": splice_rows,
    "padding": _padding_rows,
}
STRATEGIES = tuple(_MAKE_ROWS)


def _buckets(bucket_ends: Int64) -> Iterator[slice]:
    first = 0
    for end in bucket_ends.tolist():
        yield slice(first, end)
        first = end


def _check_input(lengths: Integers, bucket_ends: Int64, sequence_len: int, *, may_exceed: bool) -> None:
    if sequence_len < 1:
        raise RecipeError(f"tokenize.sequence_len: {sequence_len}; a row needs at least 1 token")
    if not len(bucket_ends) or bucket_ends[-1] != len(lengths) or (np.diff(bucket_ends, prepend=0) < 0).any():
        raise ConservationError(f"the buckets {bucket_ends} do not cover {len(lengths)} samples; please report this")
    limit = MAX_SAMPLE_TOKENS if may_exceed else sequence_len
    if not len(lengths) or (lengths.min() >= 1 and lengths.max() <= limit):
        return
    if len(empty := np.flatnonzero(lengths < 1)):
        raise DataError(f"sample {empty[0]} of {len(lengths)} has {lengths[empty[0]]} tokens; drop empty samples first")
    excess = int(np.argmax(lengths > limit))
    cure = "split it first" if may_exceed else "set tokenize.excess_length, or pack.strategy: packed"
    raise DataError(f"sample {excess} of {len(lengths)} has {lengths[excess]} tokens, the limit is {limit}; {cure}")
