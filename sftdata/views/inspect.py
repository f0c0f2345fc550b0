"""One row of a build: its tokens by kind, and where each of its documents came from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sftdata import storage
from sftdata.errors import DataError, suggest
from sftdata.schemas import IGNORE_INDEX
from sftdata.shards import Shards, Split, open_shards
from sftdata.views.decoding import KINDS, Decoder, Run
from sftdata.views.page import fill_page
from sftdata.views.tables import LINEAGE_TABLE, read_rows


class Token(NamedTuple):
    """One token."""

    id: int
    token: str
    """As the vocabulary writes it."""
    text: str
    """The characters that end in this token; none where a character goes on in the next."""
    label: int
    kind: str
    """One of `decoding.KINDS`."""


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
                tokens=_tokens(ids, labels, decoder),
            )
        )
        first += length
    return segments


def _tokens(ids: npt.NDArray[np.int32], labels: npt.NDArray[np.int32], decoder: Decoder) -> list[Token]:
    columns = (ids.tolist(), decoder.texts(ids), labels.tolist(), decoder.kinds(ids, labels).tolist())
    return [
        Token(number, decoder.token(number), text, label, KINDS[kind])
        for number, text, label, kind in zip(*columns, strict=True)
    ]


class Glyphs(NamedTuple):
    """Tokens that make whole characters together: mostly one, several where a character's bytes are divided."""

    kind: str
    """That of the last of them."""
    text: str
    tokens: list[Token]


def whole_characters(tokens: list[Token]) -> list[Glyphs]:
    """Return the tokens of a segment in groups that are shown together."""
    groups: list[Glyphs] = []
    waiting: list[Token] = []
    for token in tokens:
        waiting.append(token)
        if token.text:
            groups.append(Glyphs(token.kind, token.text, waiting))
            waiting = []
    return [*groups, Glyphs(waiting[-1].kind, "", waiting)] if waiting else groups


def write_page(row: InspectedRow, name: str, path: Path) -> None:
    """Write a row of the build `name` as one HTML page that needs nothing else."""
    page = fill_page("inspect.html.jinja", row=row, name=name, kinds=KINDS, whole_characters=whole_characters)
    storage.make_folder(path.absolute().parent)
    storage.write_bytes(path, page.encode("utf-8"))
