"""Reading the documents of a prepared part back, and formatting them again: the second time, cleaned and with marks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from sftdata import registry
from sftdata.entries import DOCUMENTS_FILE, KEYS_FILE
from sftdata.record_json import parse
from sftdata.records import Example, InvalidRecord, Turn
from sftdata.tables import read_batches

BATCH_ROWS = 2000
BATCH_BYTES = 4 << 20
"""Bytes of records at which a batch ends early: what bounds the memory."""

Format = Callable[[dict[str, Any]], Example]
Indices = npt.NDArray[np.intp]


class Documents(NamedTuple):
    """Some documents of a part, as columns of equal length."""

    numbers: Indices
    """The documents' numbers in their part."""
    ids: pa.StringArray
    records: pa.StringArray
    marks: pa.StringArray
    digests: pa.FixedSizeBinaryArray

    def take(self, rows: Indices) -> Documents:
        """Return some of the documents."""
        ids, records, marks, digests = (column.take(pa.array(rows)) for column in self[1:])
        return Documents(self.numbers[rows], ids, records, marks, digests)


def open_format(name: str, options: dict[str, Any], *, allow_code: bool) -> Format:
    """Return a formatter with its options."""
    function = registry.find_step("formatter", name, allow_code=allow_code).function
    return partial(function, **options) if options else function


def read_documents(
    folder: Path, keep: npt.NDArray[np.bool_], marks_of_rows: pa.ChunkedArray | None = None
) -> Iterator[Documents]:
    """Yield the kept documents of a prepared part in batches. keep: (number of documents,).

    marks_of_rows: (number of documents,) further marks, or nulls, that each document gets beside those of its cleaners.
    """
    number = 0
    for batch, keys in zip(read_batches(folder / DOCUMENTS_FILE), read_batches(folder / KEYS_FILE), strict=True):
        numbers = np.arange(number, number + len(batch))
        ids, records, marks = (batch.column(name) for name in ("id", "record", "marks"))
        if marks_of_rows is not None:
            marks = join_marks(marks, marks_of_rows.slice(number, len(batch)))
        all_rows = Documents(numbers, ids, records, marks, keys.column("digest"))
        for rows in _cut(all_rows.records, np.flatnonzero(keep[number : number + len(batch)])):
            yield all_rows.take(rows)
        number += len(batch)


def join_marks(marks: pa.StringArray, further: pa.ChunkedArray) -> pa.StringArray:
    """Return, row by row, two JSON lists of marks as one; null where there is neither."""
    if further.null_count == len(further):
        return marks
    pairs = zip(marks.to_pylist(), further.to_pylist(), strict=True)
    return pa.array([f"{one[:-1]},{other[1:]}" if one and other else one or other for one, other in pairs], pa.string())


def _cut(records: pa.StringArray, chosen: Indices) -> Iterator[Indices]:
    """Cut the chosen rows into batches of at most `BATCH_ROWS` rows and, but for single rows, `BATCH_BYTES` bytes."""
    offsets = np.frombuffer(records.buffers()[1], dtype=np.int32)[records.offset : records.offset + len(records) + 1]
    ends = np.cumsum(np.diff(offsets)[chosen], dtype=np.int64)
    first = 0
    while first < len(chosen):
        before = ends[first - 1] if first else 0
        fitting = int(np.searchsorted(ends, before + BATCH_BYTES, side="right"))
        last = max(min(fitting, first + BATCH_ROWS), first + 1)
        yield chosen[first:last]
        first = last


def format_documents(form: Format, documents: Documents) -> tuple[list[Example], dict[int, InvalidRecord]]:
    """Return the examples of the documents that can be formatted, in order; the others by number, with what is wrong."""
    examples: list[Example] = []
    refused: dict[int, InvalidRecord] = {}
    for number, (record, marks) in enumerate(zip(documents.records.to_pylist(), documents.marks.to_pylist(), strict=True)):
        try:
            example = form(parse(record))
        except InvalidRecord as error:
            refused[number] = error
            continue
        examples.append(example if marks is None else apply_marks(example, orjson.loads(marks)))
    return examples, refused


def apply_marks(example: Example, marks: Iterable[tuple[Sequence[str | int], str, float]]) -> Example:
    """Return an example with the cleaners' marks, (path, kind, value), on its spans and without the turns they dropped."""
    turns = list(example.turns)
    gone = set()
    for path, kind, value in marks:
        if kind == "drop_turn":
            gone.add(int(value))
            continue
        for index, turn in enumerate(turns):
            if turn.reasoning is not None and list(turn.reasoning.path) == list(path):
                flags = _marked(turn.reasoning_flags or (turn.train, turn.weight), kind, value)
                turns[index] = turns[index]._replace(reasoning_flags=flags)
            for number, span in enumerate(turn.spans):
                if list(span.path) == list(path):
                    turns[index] = _with_mark(turns[index], number, kind, value)
    return example._replace(turns=tuple(turn for number, turn in enumerate(turns) if number not in gone))


def _marked(flags: tuple[bool | None, float], kind: str, factor: float) -> tuple[bool | None, float]:
    """Return the flags of what is not trained (`mask_loss`) or has its loss multiplied (`weight`)."""
    train, weight = flags
    return (False, weight) if kind == "mask_loss" else (train, weight * factor)


def _with_mark(turn: Turn, span: int, kind: str, factor: float) -> Turn:
    """Return a turn with a mark on one of its spans; what it says beside its content keeps the flags that it had."""
    flags = list(turn.parts or [(turn.train, turn.weight)] * len(turn.spans))
    flags[span] = _marked(flags[span], kind, factor)
    if turn.reasoning is not None or turn.fields:
        return turn._replace(parts=tuple(flags))
    if len(flags) == 1 and not turn.parts:
        return turn._replace(train=flags[0][0], weight=flags[0][1])
    return turn._replace(parts=tuple(flags))
