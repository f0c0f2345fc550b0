"""From character spans to tokens: which tokens lie wholly inside the trained spans. Flat arrays over a whole batch.

All functions search the borders of the spans among those of the tokens, so that their cost grows with the spans.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sftdata.rendering import CharSpans
from sftdata.tokenizers.encoder import Batch, Encoded

Int64 = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


class ByteSpans(NamedTuple):
    """Spans of a batch in byte positions, ascending and disjoint, none empty. row, starts, ends, values: (m,)."""

    row: Int64
    starts: Int64
    ends: Int64
    values: Float64
    """As in `CharSpans`."""


class TokenRuns(NamedTuple):
    """Runs of tokens: row, first (counted from the row's first token), length: (m,)."""

    row: Int64
    first: Int64
    length: Int64


def to_bytes(batch: Batch, spans: CharSpans) -> ByteSpans:
    """Return the rows' character spans as byte spans of the batch; empty spans are left out."""
    row, starts, ends, values = spans
    filled = ends > starts
    if not filled.all():
        row, starts, ends, values = row[filled], starts[filled], ends[filled], values[filled]
    first = batch.row_chars[row]
    return ByteSpans(row, batch.char_bytes[starts + first], batch.char_bytes[ends + first], values)


def tokens_inside(encoded: Encoded, spans: ByteSpans) -> TokenRuns:
    """Return, for every span, the run of tokens that lie wholly inside it; empty runs have length 0 or less."""
    row_first, row_last = encoded.row_offsets[spans.row], encoded.row_offsets[spans.row + 1]
    first = np.maximum(np.searchsorted(encoded.starts, spans.starts, side="left"), row_first)
    last = np.minimum(np.searchsorted(encoded.ends, spans.ends, side="right"), row_last)
    return TokenRuns(spans.row, first - row_first, last - first)


def num_straddling(encoded: Encoded, spans: ByteSpans) -> int:
    """Return how often a token lies across a border of a span: partly inside, and so not trained."""
    last_begun = np.searchsorted(encoded.starts, spans.starts, side="left") - 1
    first_open = np.searchsorted(encoded.ends, spans.ends, side="right")
    over_start = (last_begun >= 0) & (encoded.ends[np.maximum(last_begun, 0)] > spans.starts) if len(encoded.ids) else 0
    inside = first_open < len(encoded.ids)
    over_end = encoded.starts[first_open[inside]] < spans.ends[inside]
    return int(np.count_nonzero(over_start)) + int(np.count_nonzero(over_end))


def flat_pairs(runs: TokenRuns, num_rows: int) -> tuple[Int32, Int64]:
    """Return the runs that are not empty.

    Flat pairs (first token in the row, length), and the number of values of each row.
    """
    filled = runs.length > 0
    pairs = np.stack([runs.first[filled], runs.length[filled]], axis=1)
    return pairs.ravel().astype(np.int32), 2 * np.bincount(runs.row[filled], minlength=num_rows)


def joined_pairs(runs: TokenRuns, num_rows: int) -> tuple[Int32, Int64]:
    """Return the runs as `flat_pairs` does, those that touch made one."""
    filled = runs.length > 0
    row, first, length = runs.row[filled], runs.first[filled], runs.length[filled]
    begins = np.ones(len(row), dtype=bool)
    begins[1:] = (row[1:] != row[:-1]) | (first[1:] > first[:-1] + length[:-1])
    index = np.flatnonzero(begins)
    last = np.append(index[1:], len(row)) - 1 if len(row) else index
    pairs = np.stack([first[index], first[last] + length[last] - first[index]], axis=1)
    return pairs.ravel().astype(np.int32), 2 * np.bincount(row[index], minlength=num_rows)


def weight_pairs(encoded: Encoded, spans: ByteSpans, num_rows: int) -> tuple[Int32, npt.NDArray[np.float32], Int64]:
    """Return the runs of tokens inside spans with a weight: flat pairs, one weight a pair, pairs of each row."""
    runs = tokens_inside(encoded, spans)
    some = runs.length > 0
    pairs = np.stack([runs.first[some], runs.length[some]], axis=1).astype(np.int32)
    return pairs.ravel(), spans.values[some].astype(np.float32), np.bincount(runs.row[some], minlength=num_rows)


def last_tokens(encoded: Encoded, spans: ByteSpans) -> Int32:
    """Return the id of the last token inside each span, (m,); −1 where there is none."""
    runs = tokens_inside(encoded, spans)
    last = encoded.row_offsets[spans.row] + runs.first + runs.length - 1
    ids = np.full(len(last), -1, dtype=np.int32)
    filled = runs.length > 0
    ids[filled] = encoded.ids[last[filled]]
    return ids


def ends_with(batch: Batch, spans: ByteSpans, text: bytes) -> Bool:
    """Return the spans that end with a text, (m,)."""
    size = len(text)
    long_enough = spans.ends - spans.starts >= size
    index = np.maximum(spans.ends[:, None] - np.arange(size, 0, -1), 0)
    same: Bool = (batch.data[index] == np.frombuffer(text, dtype=np.uint8)).all(axis=1)
    return same & long_enough


def num_tokens_before(encoded: Encoded, batch: Batch, row: Int64, characters: Int64) -> Int32:
    """Return how many of a row's tokens end at or before a character position of it. row, characters: (m,)."""
    wanted = batch.char_bytes[characters + batch.row_chars[row]]
    last = np.minimum(np.searchsorted(encoded.ends, wanted, side="right"), encoded.row_offsets[row + 1])
    return np.asarray(last - encoded.row_offsets[row], dtype=np.int32)
