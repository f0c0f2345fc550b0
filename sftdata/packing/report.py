"""How full the rows of a plan are, and how few rows there could be."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from sftdata import columns
from sftdata.columns import offsets
from sftdata.packing.rows import Integers, Plan


@dataclass(frozen=True)
class PackingReport:
    """How full the rows of a plan are. Counts in rows, segments, tokens and samples; `fill` is a share of 1.

    num_padding is the room that is left in the rows, which shards do not store. No packing of the same segments under the same
    rules (buckets, and samples whole unless the strategy splits them) has fewer rows than lower_bound. Tokens and samples are
    lost only where a compatible mode was asked to lose them.
    """

    num_rows: int
    num_segments: int
    num_tokens_in: int
    num_tokens_out: int
    num_padding: int
    fill: float
    lower_bound: int
    num_split_samples: int
    num_tokens_lost: int
    num_samples_lost: int


def report_packing(plan: Plan, lengths: Integers, *, strategy: str, sequence_len: int) -> PackingReport:
    """Count what a plan made of `lengths`, and compare its rows with the lower bound. Arguments as for `pack`."""
    num_tokens_in, num_tokens_out = int(lengths.sum(dtype=np.int64)), int(plan.length.sum(dtype=np.int64))
    num_rows = len(plan.pack_offsets) - 1
    room = num_rows * sequence_len
    bound = _token_bound if strategy == "packed" else lower_bound
    borders = plan.pack_offsets[offsets(plan.bucket_rows)].tolist()
    placed = np.zeros(len(lengths), dtype=bool)
    placed[plan.item] = True
    return PackingReport(
        num_rows=num_rows,
        num_segments=len(plan.item),
        num_tokens_in=num_tokens_in,
        num_tokens_out=num_tokens_out,
        num_padding=room - num_tokens_out,
        fill=num_tokens_out / room if room else 1.0,
        lower_bound=sum(bound(plan.length[first:end], sequence_len) for first, end in pairwise(borders)),
        num_split_samples=len(np.unique(plan.item[plan.start > 0])),
        num_tokens_lost=num_tokens_in - num_tokens_out,
        num_samples_lost=int(np.count_nonzero(~placed)),
    )


def lower_bound(lengths: Integers, sequence_len: int) -> int:
    """Return a number of rows below which whole samples cannot be packed. lengths: (n,), each at most `sequence_len`.

    For every threshold t up to half a row: samples longer than half a row share none, and what is not longer than a half but at
    least t fits only into the room beside those of at most sequence_len - t. This is the bound L2 of Martello and Toth ("Lower
    bounds and reduction procedures for the bin packing problem", Discrete Applied Mathematics 28, 1990); t = 1 is the number
    of tokens divided by `sequence_len`, rounded up.
    """
    half = sequence_len // 2
    counts = columns.counts(lengths, sequence_len + 1)
    num_up_to = np.cumsum(counts)
    tokens_up_to = np.cumsum(counts * np.arange(sequence_len + 1))
    threshold = np.arange(1, max(half, 1) + 1)
    num_large = num_up_to[-1] - num_up_to[half]
    num_beside = num_up_to[sequence_len - threshold] - num_up_to[half]
    room_beside = num_beside * sequence_len - (tokens_up_to[sequence_len - threshold] - tokens_up_to[half])
    small_tokens = tokens_up_to[half] - tokens_up_to[threshold - 1]
    num_more = np.maximum(-((room_beside - small_tokens) // sequence_len), 0)
    return int(num_large + num_more.max())


def _token_bound(lengths: Integers, sequence_len: int) -> int:
    return -(-int(lengths.sum(dtype=np.int64)) // sequence_len)
