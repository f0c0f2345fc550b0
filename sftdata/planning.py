"""Plan, the second decision: which rows are too long, in which order the others are trained, and which share a packed row.

One process that sees only integers: a length, a digest and a source for every row. The plan is a file of integers that Gather
carries out; another mix, length or packing needs no new tokenizing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sftdata import mixing, packing, progress, storage
from sftdata.acceptance import Rows, Samples, accept
from sftdata.entries import LEDGER_FILE, PARTS_FILE, TOKENIZED_FILE, plan_name, read_decisions, read_parts
from sftdata.schemas import LEDGER, SPLITS
from sftdata.tables import read_batches, stream_writer

SEGMENT = pa.schema(
    [
        ("row", pa.int64()),  # the packed row in its split
        ("part", pa.int32()),
        ("item", pa.int32()),  # the tokenized row in its part
        ("start", pa.int32()),
        ("length", pa.int32()),
        ("joined", pa.bool_()),  # goes on with the document of the segment before, out of which tokens were cut
    ]
)
"""One run of tokens of a planned row, in the order of the shards."""

Int64 = npt.NDArray[np.int64]


def plan(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Decide truncation, order and packs of all splits; return counts and, split by split, what the shards will hold.

    `spec`: `work` (folder), `parts` (tokenized parts in it), `decisions` (folder), `categories` (a number for each part),
    `tokenize`, `mix`, `pack`, `shards`, `split`, `seed`. Raises DataError where `excess_length` is error and a row is too long.
    """
    storage.write_json(folder / PARTS_FILE, spec["parts"], durable=False)
    spec = {**spec, "parts": read_parts(folder, Path(spec["work"]))}
    rows = _read_rows(spec)
    counts: Counter[str] = Counter(rows=len(rows.length), tokens=int(rows.length.sum()))
    with stream_writer(folder / LEDGER_FILE, LEDGER) as ledger:
        samples = accept(rows, spec, ledger, counts)
    splits = {}
    for index, name in enumerate(SPLITS):
        if index and not spec["split"]["validation"]:
            continue
        chosen = np.flatnonzero(rows.split[samples.row] == index)
        splits[name] = _plan_split(folder, name, (rows, samples), chosen, spec)
    counts["kept_tokens"] = int(samples.length.sum())
    return {"counts": dict(counts), "splits": splits}


def _read_rows(spec: dict[str, Any]) -> Rows:
    pieces = []
    for number, part in enumerate(spec["parts"]):
        _, split = read_decisions(Path(spec["decisions"]), number)
        item = 0
        for batch in read_batches(part / TOKENIZED_FILE):
            count = len(batch)
            digest = np.frombuffer(batch.column("digest").buffers()[1], dtype="<u8").reshape(-1, 2)[:count]
            pieces.append(
                Rows(
                    part=np.full(count, number, dtype=np.int32),
                    item=np.arange(item, item + count, dtype=np.int32),
                    length=np.diff(batch.column("input_ids").offsets.to_numpy()).astype(np.int64),
                    trained=batch.column("num_trained").to_numpy(),
                    split=split[batch.column("row").to_numpy()],
                    category=np.full(count, spec["categories"][number], dtype=np.int32),
                    digest=digest.astype(np.uint64),
                    weighted=np.diff(batch.column("weight_values").offsets.to_numpy()) > 0,
                )
            )
            item += count
        progress.tick(item)
    if not pieces:
        none = np.zeros(0, dtype=np.int32)
        return Rows(none, none, none.astype(np.int64), none, none.astype(np.int8), none, np.zeros((0, 2), np.uint64), none > 0)
    return Rows(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def _plan_split(
    folder: Path, name: str, found: tuple[Rows, Samples], chosen: Int64, spec: dict[str, Any]
) -> dict[str, Any]:
    """Mix and pack the chosen samples of one split, write its plan, and return what its shards will hold."""
    rows, samples = found
    row = samples.row[chosen]
    training = name == SPLITS[0]
    mix = spec["mix"] if training else {"strategy": "concat", "shuffle": False, "bins": None}
    mixed = mixing.mix(_identities(rows.digest[row], samples.number[chosen]), rows.category[row], seed=spec["seed"], **mix)
    order = chosen[mixed.order]
    lengths = samples.length[order]
    strategy = spec["pack"]["strategy"] if training else spec["pack"]["validation"] or spec["pack"]["strategy"]
    length = spec["tokenize"]["sequence_len"] or 1
    if strategy == "padding":  # a published script may keep rows that are longer
        length = max(length, int(lengths.max(initial=1)))
    packed = packing.pack(lengths, mixed.bucket_ends, strategy=strategy, sequence_len=length, keys=mixed.keys)
    report = packing.report_packing(packed, lengths, strategy=strategy, sequence_len=length)
    _write_plan(folder / plan_name(name), found, order, packed)
    ends = np.append(0, np.cumsum(packed.length, dtype=np.int64))
    row_tokens = np.diff(ends[packed.pack_offsets])
    return {
        "strategy": strategy,
        "rows": report.num_rows,
        "segments": report.num_segments,
        "samples": len(chosen),
        "tokens": report.num_tokens_out,
        "weighted": bool(rows.weighted[row].any()),
        "bucket_rows": [int(count) for count in packed.bucket_rows],
        "shard_rows": _cut_shards(row_tokens, spec["shards"]["max_bytes"]),
        "packing": asdict(report),
    }


def _identities(digest: npt.NDArray[np.uint64], number: Int64) -> npt.NDArray[np.uint64]:
    """Return digests in which the samples of one row differ, so that they are not trained one after the other."""
    digest = digest.copy()
    digest[:, 1] ^= number.astype(np.uint64)
    return digest


def _write_plan(path: Path, found: tuple[Rows, Samples], order: Int64, packed: packing.Plan) -> None:
    """Write the segments of a split: samples `order[packed.item]`, as runs of tokens of their rows."""
    rows, samples = found
    sample = order[packed.item]
    run, start, length, joined = samples.pieces(sample, packed.start, packed.length)
    source = samples.row[sample[run]]
    row = np.repeat(np.arange(len(packed.pack_offsets) - 1), np.diff(packed.pack_offsets))[run]
    columns = [row, rows.part[source], rows.item[source], start, length, joined]
    with stream_writer(path, SEGMENT) as table:
        table.extend_columns([pa.array(column, type=field.type) for column, field in zip(columns, SEGMENT, strict=True)])


BYTES_A_TOKEN = 9
"""int32 ids and labels, int8 attention mask: what a token takes in a shard, offsets aside."""


def _cut_shards(row_tokens: Int64, max_bytes: int) -> list[int]:
    """Return the number of rows of each shard: as many as fit into `max_bytes`, at least one; one empty shard for no rows."""
    ends = np.cumsum(row_tokens.astype(np.int64) * BYTES_A_TOKEN)
    sizes = []
    first = 0
    while first < len(ends):
        used = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, used + max_bytes, side="right")), first + 1)
        sizes.append(last - first)
        first = last
    return sizes or [0]
