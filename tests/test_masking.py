"""From character spans to tokens, against slow and obvious code over random borders."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sftdata import masking
from sftdata.rendering import CharSpans
from sftdata.tokenizers.encoder import Batch, Encoded, concatenate

Interval = tuple[int, int]


@st.composite
def batches(draw: st.DrawFn) -> tuple[Batch, Encoded, list[list[Interval]]]:
    """Draw texts, tokens with ascending borders on them, and disjoint spans of characters."""
    texts = draw(st.lists(st.text("aé中👩", max_size=9), min_size=1, max_size=4))
    batch = concatenate(texts)
    starts: list[int] = []
    ends: list[int] = []
    row_offsets = [0]
    spans = []
    for row, text in enumerate(texts):
        size = len(text.encode())
        cuts = sorted(draw(st.sets(st.integers(1, max(1, size - 1)), max_size=size))) if size > 1 else []
        borders = [0, *cuts, size] if size else []
        starts += [int(batch.row_bytes[row]) + border for border in borders[:-1]]
        ends += [int(batch.row_bytes[row]) + border for border in borders[1:]]
        row_offsets.append(len(starts))
        marks = sorted(draw(st.lists(st.integers(0, len(text)), max_size=6)))
        spans.append(list(zip(marks[::2], marks[1::2], strict=False)))
    ids = np.arange(len(starts), dtype=np.int32)
    return batch, Encoded(ids, np.array(row_offsets), np.array(starts, dtype=int), np.array(ends, dtype=int)), spans


def char_spans(spans: list[list[Interval]]) -> CharSpans:
    """Return the spans of rows as columns."""
    flat = [(row, start, end) for row, intervals in enumerate(spans) for start, end in intervals]
    row, starts, ends = np.array(flat, dtype=np.int64).reshape(-1, 3).T
    return CharSpans(row, starts, ends, np.arange(len(flat), dtype=np.float64))


def byte_intervals(batch: Batch, spans: list[list[Interval]]) -> list[Interval]:
    """Return the spans that are not empty as byte positions of the batch."""
    found = []
    for row, intervals in enumerate(spans):
        base = int(batch.row_bytes[row])
        prefix = [base + len(batch.texts[row][:end].encode()) for end in range(len(batch.texts[row]) + 1)]
        found += [(prefix[start], prefix[end]) for start, end in intervals if start < end]
    return found


@given(drawn=batches())
def test_spans_are_placed_in_bytes(drawn: tuple[Batch, Encoded, list[list[Interval]]]) -> None:
    batch, _, spans = drawn
    placed = masking.to_bytes(batch, char_spans(spans))
    assert list(zip(placed.starts.tolist(), placed.ends.tolist(), strict=True)) == byte_intervals(batch, spans)
    assert batch.char_bytes[-1] == len(batch.data) == batch.row_bytes[-1]


@given(drawn=batches())
def test_runs_are_the_tokens_wholly_inside_a_span(drawn: tuple[Batch, Encoded, list[list[Interval]]]) -> None:
    batch, encoded, spans = drawn
    intervals = byte_intervals(batch, spans)
    tokens = list(zip(encoded.starts.tolist(), encoded.ends.tolist(), strict=True))
    expected = [any(low <= start and end <= high for low, high in intervals) for start, end in tokens]
    runs = masking.tokens_inside(encoded, masking.to_bytes(batch, char_spans(spans)))
    pairs, num_values = masking.joined_pairs(runs, len(batch.texts))
    first = np.repeat(encoded.row_offsets[:-1], num_values // 2)
    found = np.zeros(len(tokens), dtype=bool)
    for begin, length in zip(pairs[0::2] + first, pairs[1::2], strict=True):
        found[begin : begin + length] = True
    assert found.tolist() == expected
    assert (pairs[1::2] > 0).all() and num_values.sum() == len(pairs)


@given(drawn=batches())
def test_straddling_tokens_are_those_across_a_border(drawn: tuple[Batch, Encoded, list[list[Interval]]]) -> None:
    batch, encoded, spans = drawn
    borders = [border for interval in byte_intervals(batch, spans) for border in interval]
    tokens = list(zip(encoded.starts.tolist(), encoded.ends.tolist(), strict=True))
    expected = sum(start < border < end for border in borders for start, end in tokens)
    assert masking.num_straddling(encoded, masking.to_bytes(batch, char_spans(spans))) == expected


@given(drawn=batches())
def test_last_tokens_and_token_counts_at_a_position(drawn: tuple[Batch, Encoded, list[list[Interval]]]) -> None:
    batch, encoded, spans = drawn
    tokens = list(zip(encoded.starts.tolist(), encoded.ends.tolist(), strict=True))
    last = []
    for low, high in byte_intervals(batch, spans):
        inside = [number for number, (start, end) in enumerate(tokens) if low <= start and end <= high]
        last.append(inside[-1] if inside else -1)
    columns = char_spans(spans)
    assert masking.last_tokens(encoded, masking.to_bytes(batch, columns)).tolist() == last
    rows = list(zip(columns.row.tolist(), columns.ends.tolist(), strict=True))
    places = [int(batch.row_bytes[row]) + len(batch.texts[row][:end].encode()) for row, end in rows]
    counts = [
        sum(end <= place for _, end in tokens[encoded.row_offsets[row] : encoded.row_offsets[row + 1]])
        for row, place in zip(columns.row, places, strict=True)
    ]
    assert masking.num_tokens_before(encoded, batch, columns.row, columns.ends).tolist() == counts


def test_a_span_ends_with_a_text_only_where_it_holds_all_of_it() -> None:
    batch = concatenate(["a</s>", "</s>b", "中</s>"])
    spans = masking.to_bytes(batch, char_spans([[(0, 5)], [(0, 5)], [(0, 1), (2, 5)]]))
    assert masking.ends_with(batch, spans, b"</s>").tolist() == [True, False, False, False]
    assert masking.ends_with(batch, spans, b"/s>").tolist() == [True, False, False, True]


def test_runs_that_touch_are_joined_only_within_a_row() -> None:
    runs = masking.TokenRuns(np.array([0, 0, 1, 1, 1]), np.array([1, 3, 0, 2, 5]), np.array([2, 1, 1, 0, -1]))
    pairs, num_values = masking.joined_pairs(runs, 3)
    assert pairs.tolist() == [1, 3, 0, 1]
    assert num_values.tolist() == [2, 2, 0]
