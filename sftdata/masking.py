"""From character spans to loss masks: which tokens lie wholly inside the trained spans. Flat arrays over a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sftdata.tokenizers.encoder import Batch, Encoded

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Bool = npt.NDArray[np.bool_]


class Spans(NamedTuple):
    """Spans of a batch in byte positions, ascending and disjoint. starts, ends, row: (m,)."""

    starts: Int64
    ends: Int64
    row: Int64


def to_bytes(batch: Batch, spans: Sequence[Sequence[tuple[int, int]]]) -> Spans:
    """Return the rows' character spans as byte spans of the batch; empty spans are left out."""
    row = np.repeat(np.arange(len(spans)), [len(row_spans) for row_spans in spans])
    pairs = np.array([span for row_spans in spans for span in row_spans], dtype=np.int64).reshape(-1, 2)
    filled = pairs[:, 1] > pairs[:, 0]
    row, pairs = row[filled], pairs[filled]
    positions = batch.char_bytes[pairs + batch.row_chars[row][:, None]]
    return Spans(positions[:, 0], positions[:, 1], row)


def inside(encoded: Encoded, spans: Spans) -> Bool:
    """Return the tokens that lie wholly inside a span, (num_tokens,)."""
    if len(spans.starts) == 0:
        return np.zeros(len(encoded.ids), dtype=bool)
    number = np.searchsorted(spans.starts, encoded.starts, side="right") - 1
    return (number >= 0) & (encoded.ends <= spans.ends[np.maximum(number, 0)])


def touching(encoded: Encoded, spans: Spans) -> Bool:
    """Return the tokens that share at least one byte with a span, (num_tokens,)."""
    if len(spans.starts) == 0:
        return np.zeros(len(encoded.ids), dtype=bool)
    number = np.searchsorted(spans.starts, encoded.ends, side="left") - 1
    return (number >= 0) & (encoded.starts < spans.ends[np.maximum(number, 0)]) & (encoded.ends > encoded.starts)


def last_tokens(encoded: Encoded, spans: Spans) -> Int32:
    """Return the id of the last token that ends inside each span, (m,); −1 where there is none."""
    index = np.searchsorted(encoded.ends, spans.ends, side="right") - 1
    reached = (index >= 0) & (encoded.starts[np.maximum(index, 0)] >= spans.starts) if len(encoded.ids) else None
    if reached is None:
        return np.full(len(spans.ends), -1, dtype=np.int32)
    return np.where(reached, encoded.ids[np.maximum(index, 0)], -1).astype(np.int32)


def runs(mask: Bool, row_offsets: Int64) -> tuple[Int32, Int64]:
    """Return the runs of True inside each row: flat pairs (start in the row, length), and the number of values of each row."""
    num_rows = len(row_offsets) - 1
    if not len(mask):
        return np.zeros(0, dtype=np.int32), np.zeros(num_rows, dtype=np.int64)
    first = np.zeros(len(mask), dtype=bool)
    filled = row_offsets[:-1][row_offsets[:-1] < row_offsets[1:]]
    first[filled] = True
    last = np.roll(first, -1)
    last[-1] = True
    begin = np.flatnonzero(mask & (first | ~np.roll(mask, 1)))
    end = np.flatnonzero(mask & (last | ~np.roll(mask, -1)))
    row = np.searchsorted(row_offsets, begin, side="right") - 1
    pairs = np.stack([begin - row_offsets[row], end - begin + 1], axis=1).astype(np.int32)
    return pairs.ravel(), 2 * np.bincount(row, minlength=num_rows)


def expand_runs(pairs: Int32, first: Int64, num_tokens: int) -> Bool:
    """Return the mask of `num_tokens` tokens that runs describe.

    pairs: flat (start, length) pairs; first: (number of pairs,) where each pair's row begins.
    """
    change = np.zeros(num_tokens + 1, dtype=np.int32)
    starts = pairs[0::2] + first
    np.add.at(change, starts, 1)
    np.add.at(change, starts + pairs[1::2], -1)
    return np.cumsum(change[:-1]).astype(bool)


def positions(encoded: Encoded, batch: Batch, characters: Sequence[Sequence[int]]) -> tuple[Int32, Int64]:
    """Return, for character positions of each row, the number of the row's tokens that end at or before each of them.

    Returns flat values and the number of values of each row.
    """
    counts = np.array([len(row) for row in characters], dtype=np.int64)
    row = np.repeat(np.arange(len(characters)), counts)
    flat = np.array([position for positions_ in characters for position in positions_], dtype=np.int64)
    wanted = batch.char_bytes[flat + batch.row_chars[row]] if len(flat) else flat
    number = np.searchsorted(encoded.ends, wanted, side="right") - encoded.row_offsets[row]
    return number.astype(np.int32), counts
