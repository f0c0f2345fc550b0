"""One row of a build: its tokens by kind, and where each of its documents came from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from sftdata.errors import DataError, suggest
from sftdata.schemas import IGNORE_INDEX
from sftdata.shards import Shards, Split, open_shards
from sftdata.views.decoding import Decoder, Run
from sftdata.views.tables import LINEAGE_TABLE, read_rows


class Token(NamedTuple):
    """One token."""

    id: int
    token: str
    label: int


class Segment(NamedTuple):
    """One document, or a piece of one, in a row."""

    source: str
    id: str
    copy: int
    start: int
    """Where the piece begins in its document, in tokens."""
    num_tokens: int
    num_trained: int
    runs: list[Run]
    tokens: list[Token]


class InspectedRow(NamedTuple):
    """One row of a split."""

    split: str
    row: int
    num_rows: int
    num_tokens: int
    num_trained: int
    segments: list[Segment]


def inspect(shards: str | Path | Shards, *, split: str = "train", row: int = 0) -> InspectedRow:
    """Return one row of a build with its documents, their origin and every token.

    Raises DataError for a split or a row that is not there.
    """
    opened = shards if isinstance(shards, Shards) else open_shards(shards)
    if split not in opened.splits:
        raise DataError(f"{opened.folder}: no split {split!r}{suggest(split, opened.splits)}")
    found = opened.splits[split]
    if not 0 <= row < found.num_rows:
        raise DataError(f"{opened.folder}: {split} has {found.num_rows} rows, numbered from 0; there is no row {row}")
    segments = _segments(opened, found, row, Decoder(opened))
    num_tokens = sum(segment.num_tokens for segment in segments)
    return InspectedRow(split, row, found.num_rows, num_tokens, sum(segment.num_trained for segment in segments), segments)


def _segments(shards: Shards, split: Split, row: int, decoder: Decoder) -> list[Segment]:
    columns = split.row(row)
    lengths = columns["seq_lengths"].tolist() if split.packed else [len(columns["input_ids"])]
    origins = read_rows(shards, LINEAGE_TABLE, [("split", "=", split.name), ("row", "=", row)])
    segments = []
    first = 0
    for length, origin in zip(lengths, origins, strict=True):
        ids, labels = (columns[name][first : first + length] for name in ("input_ids", "labels"))
        segments.append(
            Segment(
                source=origin["source"],
                id=origin["id"],
                copy=origin["copy"],
                start=origin["start"],
                num_tokens=length,
                num_trained=int(np.count_nonzero(labels != IGNORE_INDEX)),
                runs=decoder.runs(ids, labels),
                tokens=[
                    Token(number, decoder.token(number), label)
                    for number, label in zip(ids.tolist(), labels.tolist(), strict=True)
                ],
            )
        )
        first += length
    return segments
