"""Truncation: which tokens of a row that is longer than `sequence_len` are trained on. Integers in, integers out.

Tokens are only ever taken out of content. A template's own tokens and a turn's stop token stay, so that what is left is a
dialogue of the same form, and an answer that is cut still ends in the token that stops it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

MODES = ("truncate_end", "truncate_start", "whole_turns", "split")
"""The values of `tokenize.excess_length` that shorten a row; `drop` and `error` never do."""


class Runs(NamedTuple):
    """Runs of tokens of several rows, ascending by row and start. row, start, length: (m,)."""

    row: Int64
    start: Int64
    length: Int64

    def take(self, chosen: Int64 | Bool) -> Runs:
        """Return some of the runs."""
        return Runs(*(column[chosen] for column in self))


class LongRows(NamedTuple):
    """What truncation knows of the rows that are too long."""

    length: Int64
    """(n,)"""
    is_chat: Bool
    """(n,) False: plain text, which `split` cuts into windows."""
    turns: Runs
    trained: Runs
    content: Runs
    """What came from the record: all that may be cut."""


class Kept(NamedTuple):
    """Ranges of tokens that are kept, ascending by row, sample and start. All (m,).

    The ranges of one sample are put one after the other; a row that is split gives several samples; a row without any range is
    dropped.
    """

    row: Int64
    sample: Int64
    """Of the row, from 0."""
    start: Int64
    length: Int64


def truncate(rows: LongRows, limit: int, mode: str) -> Kept:
    """Shorten rows to at most `limit` tokens.

    `truncate_start` keeps the last `limit` tokens. `whole_turns` keeps as many turns from the first on as fit, up to the last
    trained one. `truncate_end` does the same where a trained turn fits; else it cuts the row after the first one, its prompt's
    content from the end, and where that is not enough the answer's. `split` cuts plain text into windows of `limit` tokens;
    dialogues it treats as `whole_turns` does. A row of which no trained content is left has no range.
    """
    if mode == "truncate_start":
        kept = _one_range(np.arange(len(rows.length)), rows.length - limit, np.full(len(rows.length), limit, dtype=np.int64))
    elif mode == "split":
        kept = _joined(_windows(rows, limit), _whole_turns(rows, limit, rows.is_chat))
    elif mode == "whole_turns":
        kept = _whole_turns(rows, limit, np.ones(len(rows.length), dtype=bool))
    else:
        whole = _whole_turns(rows, limit, np.ones(len(rows.length), dtype=bool))
        left = np.ones(len(rows.length), dtype=bool)
        left[whole.row] = False
        kept = _joined(whole, _cut_first_answer(rows, limit, left))
    trained = num_trained(kept, rows.trained)
    return Kept(*(column[np.isin(sample_keys(kept), trained.keys[trained.counts > 0])] for column in kept))


class SampleCounts(NamedTuple):
    """keys: (s,) one for each sample, ascending; counts: (s,) its trained tokens, the first token of the sample aside."""

    keys: Int64
    counts: Int64


def sample_keys(kept: Kept) -> Int64:
    """Return a number for each range's sample, ascending: equal for the ranges of one sample."""
    return kept.row << 32 | kept.sample


def num_trained(kept: Kept, trained: Runs) -> SampleCounts:
    """Count the trained tokens of each sample. The first token of a sample is context, whatever the runs say."""
    keys = sample_keys(kept)
    begins = np.ones(len(keys), dtype=bool)
    begins[1:] = keys[1:] != keys[:-1]
    inside = _count_inside(trained, kept.row, kept.start + begins, kept.length - begins)
    return SampleCounts(keys[begins], np.add.reduceat(inside, np.flatnonzero(begins)) if len(keys) else inside)


def _count_inside(runs: Runs, row: Int64, start: Int64, length: Int64) -> Int64:
    """Return how many tokens of the runs lie in each range."""
    first = runs.row << 32 | runs.start
    before = np.append(0, np.cumsum(runs.length))

    def below(position: Int64) -> Int64:
        """Return how many tokens of runs lie before a position, those of earlier rows included."""
        number = np.searchsorted(first, row << 32 | position, side="left")
        last = np.maximum(number - 1, 0)
        if not len(first):
            return np.zeros(len(row), dtype=np.int64)
        same = (number > 0) & (runs.row[last] == row)
        beyond = np.where(same, np.maximum(runs.start[last] + runs.length[last] - position, 0), 0)
        return np.asarray(before[number] - beyond, dtype=np.int64)

    return below(start + length) - below(start)


def _one_range(row: Int64, start: Int64, length: Int64) -> Kept:
    return Kept(row.astype(np.int64), np.zeros(len(row), dtype=np.int64), start, length)


def _joined(first: Kept, second: Kept) -> Kept:
    both = Kept(*(np.concatenate(columns) for columns in zip(first, second, strict=True)))
    order = np.lexsort((both.start, both.sample, both.row))
    return Kept(*(column[order] for column in both))


def _windows(rows: LongRows, limit: int) -> Kept:
    chosen = np.flatnonzero(~rows.is_chat)
    counts = -(-rows.length[chosen] // limit)
    row = np.repeat(chosen, counts)
    sample = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = sample * limit
    return Kept(row, sample, start, np.minimum(rows.length[row] - start, limit))


def _trained_turns(rows: LongRows) -> Runs:
    """Return the turns that hold trained tokens."""
    inside = _count_inside(rows.trained, rows.turns.row, rows.turns.start, rows.turns.length)
    return rows.turns.take(inside > 0)


def _whole_turns(rows: LongRows, limit: int, wanted: Bool) -> Kept:
    """Keep the wanted rows up to the end of the last trained turn that fits; those in which none does are left out."""
    turns = _trained_turns(rows)
    ends = turns.start + turns.length
    fits = (ends <= limit) & wanted[turns.row]
    end = np.zeros(len(rows.length), dtype=np.int64)
    np.maximum.at(end, turns.row[fits], ends[fits])
    row = np.flatnonzero(end)
    return _one_range(row, np.zeros(len(row), dtype=np.int64), end[row])


def _cut_first_answer(rows: LongRows, limit: int, wanted: Bool) -> Kept:
    """Keep the wanted rows up to their first trained turn, with content cut until `limit` tokens are left."""
    turns = _trained_turns(rows)
    end = np.zeros(len(rows.length), dtype=np.int64)
    row, first = np.unique(turns.row, return_index=True)
    end[row] = turns.start[first] + turns.length[first]
    end[~wanted] = 0
    content = rows.content.take(rows.content.start + rows.content.length <= end[rows.content.row])
    is_trained = _count_inside(rows.trained, content.row, content.start, content.length) > 0
    order = np.lexsort((-content.start, is_trained, content.row))
    content, is_trained = content.take(order), is_trained[order]
    before = np.cumsum(content.length) - content.length
    before -= before[np.searchsorted(content.row, content.row)]
    removed = np.clip((end - limit)[content.row] - before, 0, content.length)
    left = end.copy()
    np.subtract.at(left, content.row, removed)
    answer = np.bincount(content.row, weights=(content.length - removed) * is_trained, minlength=len(end))
    good = (end > 0) & (left <= limit) & (answer > 0)
    cut = (removed > 0) & good[content.row]
    gaps = Runs(content.row[cut], (content.start + content.length - removed)[cut], removed[cut])
    return _outside(gaps, np.flatnonzero(good), end)


def _outside(gaps: Runs, rows: Int64, end: Int64) -> Kept:
    """Return what of [0, end) of the rows no gap covers."""
    order = np.lexsort((gaps.start, gaps.row))
    gaps = gaps.take(order)
    row = np.concatenate([gaps.row, rows])
    high = np.concatenate([gaps.start, end[rows]])
    order = np.lexsort((high, row))
    row, high = row[order], high[order]
    after_gap = np.concatenate([gaps.start + gaps.length, end[rows]])[order]
    low = np.zeros(len(row), dtype=np.int64)
    same = row[1:] == row[:-1]
    low[1:][same] = after_gap[:-1][same]
    filled = high > low
    return _one_range(row[filled], low[filled], (high - low)[filled])
