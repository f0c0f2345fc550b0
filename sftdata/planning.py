"""Plan, the second decision: which rows are too long, in which order the others are trained, and which share a packed row.

One process that sees only integers: a length, a digest and a source for every row. The plan is a file of integers that Gather
carries out; another mix, length or packing needs no new tokenizing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sftdata import columns, mixing, packing, progress, storage
from sftdata.acceptance import Samples, accept, packing_of, trained_heads
from sftdata.curriculum import read_values
from sftdata.entries import LEDGER_FILE, PARTS_FILE, TOKENIZED_FILE, plan_name, read_decisions, read_parts
from sftdata.mixing import Mix
from sftdata.mixture import Contents, arrange, report_mixture
from sftdata.row_log import RowLog, Rows
from sftdata.schemas import LEDGER, SPLITS
from sftdata.shuffling import copy_identity, fold_digests, row_identity
from sftdata.tables import read_batches, stream_writer

SEGMENT = pa.schema(
    [
        ("row", pa.uint32()),  # the packed row in its split
        ("part", pa.int32()),
        ("item", pa.int32()),  # the tokenized row in its part
        ("start", pa.int32()),
        ("length", pa.int32()),
        ("joined", pa.bool_()),  # goes on with the document of the segment before, out of which tokens were cut
        ("copy", pa.uint16()),  # of the document, from 0
    ]
)
"""One run of tokens of a planned row, in the order of the shards: 22 bytes and a bit."""

Int64 = npt.NDArray[np.int64]
Integers = npt.NDArray[np.integer[Any]]


def plan(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Decide truncation, order and packs of all splits; return counts and, split by split, what the shards will hold.

    `spec`: `work` (folder), `parts` and `documents` (tokenized and prepared parts in it), `decisions` (folder), `sources` and
    `categories` (a name for each part), `weights` (what each source asks for), `tokenize`, `mix`, `pack`, `shards`, `split`,
    `seed`. Raises DataError where `excess_length` is error and a row is too long, or the mixture cannot be met.
    """
    storage.write_json(folder / PARTS_FILE, spec["parts"], durable=False)
    with columns.scratch(folder):
        return _plan(folder, {**spec, "parts": read_parts(folder, Path(spec["work"]))})


def _plan(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    rows = _read_rows(spec)
    counts: Counter[str] = Counter(rows=len(rows.length), tokens=int(rows.length.sum(dtype=np.int64)))
    splits = {}
    with stream_writer(folder / LEDGER_FILE, LEDGER) as ledger:
        log = RowLog(rows, spec["parts"], ledger, counts)
        samples = accept(rows, spec, log)
        for index, name in enumerate(SPLITS):
            if index == 0 or spec["split"]["validation"]:
                found = _Split(index, rows, samples, _samples_of(index, rows, samples))
                splits[name] = _plan_split(folder / plan_name(name), found, spec, log)
    counts["kept"] = counts["rows"] - counts["dropped"]
    counts["kept_tokens"] = sum(split["tokens"] for split in splits.values())
    return {"counts": dict(counts), "splits": splits}


def _samples_of(split: int, rows: Rows, samples: Samples) -> Integers:
    """Return which samples are in a split."""
    return columns.places(len(samples.row), lambda some: rows.split[samples.row[some]] == split)


def _read_rows(spec: dict[str, Any]) -> Rows:
    part_ends = np.cumsum([sum(map(len, read_batches(part / TOKENIZED_FILE))) for part in spec["parts"]], dtype=np.int64)
    num_rows = int(part_ends[-1]) if len(part_ends) else 0
    rows = Rows(
        part_ends=part_ends,
        length=columns.empty(num_rows, np.int32),
        trained=columns.empty(num_rows, np.int32),
        split=columns.empty(num_rows, np.int8),
        identity=columns.empty(num_rows, np.uint64),
        weighted=columns.empty(num_rows, np.bool_),
    )
    published = spec["tokenize"]["compat"] is not None  # only then the first token of a document may be trained
    first = 0
    for number, part in enumerate(spec["parts"]):
        _, split = read_decisions(Path(spec["decisions"]), number)
        for batch in read_batches(part / TOKENIZED_FILE):  # one part at a time: the system limits how many files are mapped
            span = slice(first, first + len(batch))
            digest = np.frombuffer(batch.column("digest").buffers()[1], dtype="<u8").reshape(-1, 2)[: len(batch)]
            rows.length[span] = np.diff(batch.column("input_ids").offsets.to_numpy())
            rows.trained[span] = batch.column("num_trained").to_numpy() - (0 if published else _first_trained(batch))
            rows.split[span] = split[batch.column("row").to_numpy()]
            rows.identity[span] = fold_digests(digest.astype(np.uint64))
            rows.weighted[span] = np.diff(batch.column("weight_values").offsets.to_numpy()) > 0
            first = span.stop
        progress.tick(first)
    return rows


def _first_trained(batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
    """Return the rows whose first token is marked as trained, which no target can be: nothing predicts it."""
    runs = batch.column("mask_runs")
    offsets = runs.offsets.to_numpy()
    first = np.zeros(len(batch), dtype=bool)
    some = np.flatnonzero(np.diff(offsets))
    first[some] = runs.values.to_numpy()[offsets[some]] == 0
    return first


class _Split(NamedTuple):
    """The samples of one split: chosen, (n,), are theirs among all, ascending."""

    number: int
    rows: Rows
    samples: Samples
    chosen: Integers

    def contents(self) -> Contents:
        """Return what mixing needs."""
        samples, chosen = self.samples, self.chosen
        row, length = columns.take(samples.row, chosen), columns.take(samples.length, chosen)
        identity, trained = columns.take(self.rows.identity, row), columns.take(self.rows.trained, row)
        for some in columns.blocks(len(chosen) if len(samples.shortened) else 0):
            identity[some] = copy_identity(identity[some], samples.spread(samples.number, chosen[some], 0))
            trained[some] = samples.spread(samples.trained, chosen[some], trained[some])
        part = columns.computed(len(row), np.int32, lambda some: self.rows.locate(row[some])[0])
        return Contents(row, row_identity(identity), part, length, trained)


def _plan_split(path: Path, found: _Split, spec: dict[str, Any], log: RowLog) -> dict[str, Any]:
    """Mix and pack the samples of one split, write its plan, and return what its shards will hold."""
    training = found.number == 0
    mixed, lengths, facts = _mixed(found, spec, training)
    strategy, published = packing_of(spec, found.number)
    sequence_len = spec["tokenize"]["sequence_len"] or 1
    if strategy == "padding" and not published:  # tokenize.compat may keep rows that are longer
        sequence_len = max(sequence_len, int(lengths.max(initial=1)))
    packed = _pack(found, mixed, lengths, sequence_len, spec)
    mixed = replace(mixed, keys=np.zeros(0, dtype=np.uint64))
    report = packing.report_packing(packed, lengths, strategy=strategy, sequence_len=sequence_len)
    _write_plan(path, found, mixed, packed)
    _record_outcomes(found, mixed, packed, log)
    return {
        "strategy": strategy,
        "rows": report.num_rows,
        "segments": report.num_segments,
        "samples": len(mixed.order) - report.num_samples_lost,
        "tokens": report.num_tokens_out,
        **facts,
        "bucket_rows": [int(count) for count in packed.bucket_rows],
        "group_rows": spec["mix"]["group_by_length"] or 1 if training else 1,
        "shard_rows": _cut_shards(_row_tokens(packed), spec["shards"]["max_bytes"]),
        "packing": asdict(report),
    }


def _mixed(found: _Split, spec: dict[str, Any], training: bool) -> tuple[Mix, Integers, dict[str, Any]]:
    """Return the order of a split's samples, their lengths in that order, and what is told of them.

    What mixing needs of the samples, 24 bytes each, is gone when this returns.
    """
    contents = found.contents()
    mixed = _mix(contents, found, spec) if training else mixing.concat(contents.identity, seed=spec["seed"], shuffle=False)
    if len(found.chosen) < 2**31 and mixed.order.dtype != np.int32:
        mixed = replace(mixed, order=columns.computed(len(mixed.order), np.int32, lambda some: mixed.order[some]))
    weighted = any(found.rows.weighted[contents.row[some]].any() for some in columns.blocks(len(contents.row)))
    facts: dict[str, Any] = {"weighted": weighted}
    if training:
        facts["mixture"] = report_mixture(contents, mixed, spec)
    return mixed, columns.take(contents.length, mixed.order), facts


def _mix(contents: Contents, found: _Split, spec: dict[str, Any]) -> Mix:
    def read_column(name: str) -> npt.NDArray[np.float64]:
        documents = [Path(spec["work"]) / entry for entry in spec["documents"]]
        return read_values(name, *found.rows.locate(contents.row), spec["parts"], documents)

    return arrange(contents, spec, read_column)


def _pack(found: _Split, mixed: Mix, lengths: Integers, sequence_len: int, spec: dict[str, Any]) -> packing.Plan:
    """Pack the samples of a split. lengths: of the samples in mixed order."""
    strategy, published = packing_of(spec, found.number)
    shuffle = spec["mix"]["shuffle"] and found.number == 0
    if published and strategy == "splice":
        original = packing.Original(spec["pack"]["num_packed_sequences"], spec["seed"] if shuffle else None)
        heads = _trained_heads(found, sequence_len, spec["parts"])[mixed.order]
        ends = mixed.bucket_ends
        return packing.pack_as_original(lengths, ends, sequence_len=sequence_len, original=original, trained_head=heads)
    if published:
        lengths = np.minimum(lengths, sequence_len)
    keys = mixed.keys if shuffle else None
    return packing.pack(lengths, mixed.bucket_ends, strategy=strategy, sequence_len=sequence_len, keys=keys)


def _trained_heads(found: _Split, sequence_len: int, parts: Sequence[Path]) -> npt.NDArray[np.bool_]:
    """Return for each sample whether any of its first `sequence_len` tokens is trained: looked up for those that are longer."""
    long = np.flatnonzero(found.samples.length[found.chosen] > sequence_len)
    heads = np.ones(len(found.chosen), dtype=bool)
    heads[long] = trained_heads(found.rows, found.samples.row[found.chosen[long]], parts, sequence_len)
    return heads


CHUNK_SEGMENTS = 1 << 18
"""Segments of a record batch of the plan."""


def _write_plan(path: Path, found: _Split, mixed: Mix, packed: packing.Plan) -> None:
    """Write the segments of a split as runs of tokens of their rows."""
    rows, samples = found.rows, found.samples
    ends = packed.pack_offsets[1:]
    with stream_writer(path, SEGMENT) as table:
        for first in range(0, len(packed.item), CHUNK_SEGMENTS):
            chunk = slice(first, first + CHUNK_SEGMENTS)
            place = packed.item[chunk]
            sample = found.chosen[mixed.order[place]]
            run, start, length, joined = samples.pieces(sample, packed.start[chunk], packed.length[chunk])
            row = np.searchsorted(ends, first + run, side="right")
            where = rows.locate(samples.row[sample[run]])
            columns = [row, *where, start, length, joined, mixed.copy[place[run]]]
            table.extend_columns([pa.array(column, type=field.type) for column, field in zip(columns, SEGMENT, strict=True)])


def _record_outcomes(found: _Split, mixed: Mix, packed: packing.Plan, log: RowLog) -> None:
    """Write the rows into the ledger that the mixture leaves out or repeats, and those that the packing loses or cuts."""
    length = columns.take(found.samples.length, found.chosen)
    once = len(mixed.order) == len(length) and not mixed.copy.any()
    if once and packed.length.sum(dtype=np.int64) == length.sum(dtype=np.int64):
        return
    copies, lost = columns.zeros(len(length), np.int32), columns.zeros(len(length), np.int64)
    for some in columns.blocks(len(mixed.order)):
        np.add.at(copies, mixed.order[some], 1)
        np.add.at(lost, mixed.order[some], length[mixed.order[some]])
    for some in columns.blocks(len(packed.item)):
        np.subtract.at(lost, mixed.order[packed.item[some]], packed.length[some])
    row = columns.take(found.samples.row, found.chosen)
    begins = columns.starts(row)
    whole, missing = columns.sums(length, begins), columns.sums(lost, begins)
    for some in columns.blocks(len(whole)):
        _log_outcomes(row[begins[:-1][some]], whole[some], missing[some], copies[begins[:-1][some]], log)


def _log_outcomes(row: Integers, whole: Int64, lost: Int64, num_copies: Integers, log: RowLog) -> None:
    """Write rows into the ledger. whole, lost: (m,) tokens of each, of all samples of all copies. num_copies: (m,)."""
    out, gone = num_copies == 0, (lost == whole) & (num_copies > 0)
    log.drop(row[out], ("mix", "left_out"), whole[out])
    log.drop(row[gone], ("pack", "spliced_out"), whole[gone])
    log.cut(row, ("pack", "cut_off"), whole, np.where(gone, 0, lost), np.ones_like(row))
    log.repeat(row, whole, num_copies)


def _row_tokens(packed: packing.Plan) -> Int64:
    """Return the tokens of every packed row."""
    return columns.sums(packed.length, packed.pack_offsets)


BYTES_A_TOKEN = 9
"""int32 ids and labels, int8 attention mask: what a token takes in a shard, offsets aside."""


def _cut_shards(row_tokens: Int64, max_bytes: int) -> list[int]:
    """Return the number of rows of each shard: as many as fit into `max_bytes`, at least one; one empty shard for no rows."""
    tokens = columns.offsets(row_tokens)
    sizes = []
    first = 0
    while first < len(row_tokens):
        fitting = int(np.searchsorted(tokens, tokens[first] + max_bytes // BYTES_A_TOKEN, side="right")) - 1
        last = max(fitting, first + 1)
        sizes.append(last - first)
        first = last
    return sizes or [0]
