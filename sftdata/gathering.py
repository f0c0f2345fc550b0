"""Gather, the last map: copy the tokens that the plan names into one shard, with labels from the mask runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sftdata import progress
from sftdata.entries import LINEAGE_FILE, SHARD_FILE, plan_name, read_parts
from sftdata.schemas import IGNORE_INDEX, LINEAGE
from sftdata.shards import BATCH_ROWS, COLUMN_TYPES, list_column, write_shard
from sftdata.tables import TableWriter, read_batches, stream_writer
from sftdata.token_sources import TokenSource, TokenSources, equal_places

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer[Any]]
Bool = npt.NDArray[np.bool_]
_Column = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""The values of a list column, and how many of them each row has."""


class _Segments(NamedTuple):
    """Segments of a run of rows, as arrays of one value a segment."""

    row: Int64
    part: Int32
    item: Int32
    start: Int32
    length: Int32
    joined: Bool
    """The run goes on with the document of the one before."""
    copy: npt.NDArray[np.uint16]

    def take(self, chosen: slice | Int64) -> _Segments:
        """Return some of the segments."""
        return _Segments(*(column[chosen] for column in self))  # type: ignore[arg-type]


def gather_shard(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Write one shard and the lineage of its rows; return its counts.

    `spec`: `work` (folder), `plan` (folder), `split`, `first_row`, `num_rows`, `columns`, `trains_first` (whether the
    first token of a document may be trained).
    """
    counts = {"rows": 0, "segments": 0, "tokens": 0, "trained_tokens": 0}
    sources = TokenSources(read_parts(Path(spec["plan"]), Path(spec["work"])))
    with stream_writer(folder / LINEAGE_FILE, LINEAGE) as lineage:
        digest = write_shard(folder / SHARD_FILE, spec["columns"], _batches(spec, sources, lineage, counts))
    return {"counts": counts, "cut_answers": dict(sorted(sources.cut_answers.items())), "xxh3": digest}


def _batches(
    spec: dict[str, Any], sources: TokenSources, lineage: TableWriter, counts: dict[str, int]
) -> Iterator[pa.RecordBatch]:
    segments = _read_segments(Path(spec["plan"]) / plan_name(spec["split"]), spec["first_row"], spec["num_rows"])
    for rows in _windows(segments, range(spec["first_row"], spec["first_row"] + spec["num_rows"])):
        chosen = segments.take(slice(*np.searchsorted(segments.row, (rows.start, rows.stop))))
        located = sources.locate(chosen.part, chosen.item)
        yield from _record_batches(_fill(chosen, located, sources, rows, spec, counts), spec["columns"])
        _write_lineage(lineage, spec["split"], chosen, located, sources)
        progress.tick(len(rows))


WINDOW_TOKENS = 4 << 20
"""Tokens that are copied at once: many short rows together, so that a part of the sources is looked at seldom."""


def _windows(segments: _Segments, rows: range) -> Iterator[range]:
    """Cut the rows into windows of whole batches: one, or as many as hold `WINDOW_TOKENS` tokens."""
    borders = [*range(rows.start, rows.stop, BATCH_ROWS), rows.stop]
    ends = np.append(0, np.cumsum(segments.length, dtype=np.int64))
    tokens = ends[np.searchsorted(segments.row, borders)]
    first = 0
    while borders[first] < rows.stop:
        last = int(np.searchsorted(tokens, tokens[first] + WINDOW_TOKENS, side="right")) - 1
        last = min(max(last, first + 1), len(borders) - 1)
        yield range(borders[first], borders[last])
        first = last


def _read_segments(path: Path, first_row: int, num_rows: int) -> _Segments:
    columns: list[list[npt.NDArray[Any]]] = [[] for _ in _Segments._fields]
    for batch in read_batches(path):
        borders = np.array([first_row, first_row + num_rows], dtype=np.uint32)  # of the column's type, which is then not copied
        first, end = np.searchsorted(batch.column("row").to_numpy(), borders).tolist()
        for column, name in zip(columns, _Segments._fields, strict=True):
            column.append(batch.column(name).slice(first, end - first).to_numpy(zero_copy_only=False))
    if not columns[0]:
        none = np.zeros(0, dtype=np.int32)
        return _Segments(none.astype(np.int64), none, none, none, none, none > 0, none.astype(np.uint16))
    row, *others = (np.concatenate(column) for column in columns)
    return _Segments(row.astype(np.int64), *others)


def _fill(
    segments: _Segments,
    located: tuple[Int64, Int32],
    sources: TokenSources,
    rows: range,
    spec: dict[str, Any],
    counts: dict[str, int],
) -> dict[str, _Column]:
    """Return the columns of some rows by name."""
    columns = spec["columns"]
    num_rows = len(rows)
    num_tokens = int(segments.length.sum(dtype=np.int64))
    target = np.cumsum(segments.length, dtype=np.int64) - segments.length
    ids = np.empty(num_tokens, dtype=np.int32)
    labels = np.full(num_tokens, IGNORE_INDEX, dtype=np.int32)
    weights = np.ones(num_tokens if "loss_weights" in columns else 0, dtype=np.float32)
    number, item = located
    for mine in equal_places(number):
        chosen = segments._replace(item=item).take(mine)
        source = sources[int(number[mine[0]])]
        num_cut = _copy(source, chosen, target[mine], (ids, labels, weights))
        sources.cut_answers[source.batch.column("source")[0].as_py()] += num_cut
    begins = ~segments.joined
    if not spec["trains_first"]:
        labels[target[begins]] = IGNORE_INDEX
    weights[labels[: len(weights)] == IGNORE_INDEX] = 1.0
    local = segments.row - rows.start
    row_tokens = np.bincount(local, weights=segments.length, minlength=num_rows).astype(np.int64)
    counts["rows"] += num_rows
    counts["segments"] += int(np.count_nonzero(begins))
    counts["tokens"] += num_tokens
    counts["trained_tokens"] += int(np.count_nonzero(labels != IGNORE_INDEX))
    return {
        "input_ids": (ids, row_tokens),
        "labels": (labels, row_tokens),
        "attention_mask": (np.ones(num_tokens if "attention_mask" in columns else 0, dtype=np.int8), row_tokens),
        "seq_lengths": (_document_lengths(segments), np.bincount(local[begins], minlength=num_rows)),
        "loss_weights": (weights, row_tokens),
    }


def _record_batches(columns: dict[str, _Column], names: list[str]) -> Iterator[pa.RecordBatch]:
    """Cut columns into record batches of `BATCH_ROWS` rows."""
    schema = pa.schema([(name, COLUMN_TYPES[name]) for name in names])
    ends = {name: np.append(0, np.cumsum(columns[name][1], dtype=np.int64)) for name in names}
    num_rows = len(ends["input_ids"]) - 1
    for first in range(0, num_rows, BATCH_ROWS):
        last = min(first + BATCH_ROWS, num_rows)
        arrays = []
        for name in names:
            values, lengths = columns[name]
            span = slice(ends[name][first], ends[name][last])
            arrays.append(list_column(values[span], lengths[first:last], COLUMN_TYPES[name].value_type))
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _document_lengths(segments: _Segments) -> Int32:
    """Return the number of tokens of every document, those that were cut out of it aside."""
    begins = np.flatnonzero(~segments.joined)
    return np.add.reduceat(segments.length, begins) if len(begins) else segments.length


def _copy(source: TokenSource, segments: _Segments, target: Int64, out: tuple[Any, Any, Any]) -> int:
    """Copy the tokens, labels and weights of one part's segments to their places; return how many trained runs are cut."""
    ids, labels, weights = out
    first = source.first[segments.item] + segments.start
    copy_ranges(source.ids, first, ids, target, segments.length)
    pairs, owner = _runs_of(source.run_pairs, source.run_first, segments.item)
    begin, lengths = _clip(pairs, segments.start[owner], segments.length[owner])
    copy_ranges(source.ids, first[owner] + begin, labels, target[owner] + begin, lengths)
    begins_here = (lengths > 0) & (pairs[0::2] >= segments.start[owner])
    num_cut = int(np.count_nonzero(begins_here & (pairs[0::2] + pairs[1::2] > (segments.start + segments.length)[owner])))
    if len(weights):
        pairs, owner = _runs_of(source.weight_pairs, source.weight_first, segments.item)
        begin, lengths = _clip(pairs, segments.start[owner], segments.length[owner])
        values = source.weight_values[_pick(source.weight_first[segments.item] // 2, _counts(source, segments.item))]
        weights[_pick(target[owner] + begin, lengths)] = np.repeat(values, lengths)
    return num_cut


def _counts(source: TokenSource, items: Int32) -> Int32:
    """Return the number of weight runs of the chosen rows."""
    return (source.weight_first[items + 1] - source.weight_first[items]) // 2


LONG_RANGE = 64
"""Mean tokens of ranges from which on copying one after the other beats an index for every token, 0.25 µs against 6 ns."""


def copy_ranges(values: Int32, first: Int64, out: Int32, target: Int64, lengths: Int32) -> None:
    """Copy values[first[i] : first[i] + lengths[i]] to out[target[i] : target[i] + lengths[i]] for every i."""
    if lengths.sum(dtype=np.int64) < LONG_RANGE * len(lengths):
        out[_pick(target, lengths)] = values[_pick(first, lengths)]
        return
    source, copy = values.data, out.data  # 1.5 times as fast as slices of the arrays
    for low, place, length in zip(first.tolist(), target.tolist(), lengths.tolist(), strict=True):
        copy[place : place + length] = source[low : low + length]


def _pick(first: Integers, lengths: npt.NDArray[Any]) -> Int64:
    """Return first[0] … first[0] + lengths[0] − 1, first[1] … as one array."""
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    picked: Int64 = np.repeat(first - (ends - lengths), lengths) + np.arange(total)
    return picked


def _runs_of(pairs: Int32, first: Int32, items: Int32) -> tuple[Int32, Int64]:
    """Return the runs of the chosen rows as flat pairs, and for each run which of the chosen it belongs to."""
    counts = first[items + 1] - first[items]
    owner = np.repeat(np.arange(len(items)), counts // 2)
    return pairs[_pick(first[items], counts)], owner


def _clip(pairs: Int32, start: Int32, length: Int32) -> tuple[Int32, Int32]:
    """Return (begin, length) of runs, in the coordinates of their segments and cut at the segments' borders."""
    begin = np.minimum(np.maximum(pairs[0::2] - start, 0), length)
    end = np.minimum(np.maximum(pairs[0::2] + pairs[1::2] - start, 0), length)
    return begin, end - begin


def _write_lineage(
    lineage: TableWriter, split: str, segments: _Segments, located: tuple[Int64, Int32], sources: TokenSources
) -> None:
    if not len(segments.row):
        return
    lengths, begins = _document_lengths(segments), ~segments.joined
    segments, located = segments.take(np.flatnonzero(begins)), (located[0][begins], located[1][begins])
    change = np.append(True, segments.row[1:] != segments.row[:-1])
    number = np.arange(len(segments.row)) - np.maximum.accumulate(np.where(change, np.arange(len(change)), 0))
    batch_number, item = located
    order = np.argsort(batch_number, kind="stable")
    back = pa.array(np.argsort(order))
    borders = np.flatnonzero(np.diff(batch_number[order])) + 1
    groups = [(sources[int(batch_number[group[0]])].batch, pa.array(item[group])) for group in np.split(order, borders)]
    taken = [batch.select(["source", "id"]).take(rows) for batch, rows in groups]
    names = pa.Table.from_batches(taken).combine_chunks().take(back)
    lineage.extend_columns(
        [
            pa.repeat(split, len(segments.row)),
            pa.array(segments.row),
            pa.array(number.astype(np.int32)),
            names["source"].combine_chunks(),
            names["id"].combine_chunks(),
            pa.array(segments.start),
            pa.array(lengths),
            pa.array(segments.copy.astype(np.int32)),
        ]
    )
