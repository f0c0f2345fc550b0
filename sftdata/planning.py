"""Plan, the second decision: which rows are too long, in which order the others are trained, and which share a packed row.

One process that sees only integers: a length, a digest and a source for every row. The plan is a file of integers that Gather
carries out; another mix, length or packing needs no new tokenizing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sftdata import mixing, packing, progress, storage
from sftdata.entries import LEDGER_FILE, PARTS_FILE, TOKENIZED_FILE, plan_name, read_decisions, read_parts
from sftdata.errors import DataError
from sftdata.ledger import Entry
from sftdata.schemas import LEDGER, SPLITS
from sftdata.tables import TableWriter, read_batches, stream_writer

SEGMENT = pa.schema(
    [
        ("row", pa.int64()),  # the packed row in its split
        ("part", pa.int32()),
        ("item", pa.int32()),  # the tokenized row in its part
        ("start", pa.int32()),
        ("length", pa.int32()),
    ]
)
"""One segment of a planned row, in the order of the shards."""

Int64 = npt.NDArray[np.int64]


class _Rows(NamedTuple):
    """What Plan knows of every tokenized row. All (n,); digest (n, 2). weighted: a token has a weight other than 1."""

    part: npt.NDArray[np.int32]
    item: npt.NDArray[np.int32]
    length: Int64
    trained: npt.NDArray[np.int32]
    split: npt.NDArray[np.int8]
    category: npt.NDArray[np.int32]
    digest: npt.NDArray[np.uint64]
    weighted: npt.NDArray[np.bool_]

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
        keep = _acceptable(rows, spec, ledger, counts)
    counts["kept"] = int(keep.sum())
    counts["dropped"] = int((~keep).sum())
    splits = {}
    for index, name in enumerate(SPLITS):
        if index and not spec["split"]["validation"]:
            continue
        chosen = np.flatnonzero(keep & (rows.split == index))
        splits[name] = _plan_split(folder, name, rows, chosen, spec)
    counts["kept_tokens"] = int(rows.length[keep].sum())
    return {"counts": dict(counts), "splits": splits}


def _read_rows(spec: dict[str, Any]) -> _Rows:
    pieces = []
    for number, part in enumerate(spec["parts"]):
        _, split = read_decisions(Path(spec["decisions"]), number)
        item = 0
        for batch in read_batches(part / TOKENIZED_FILE):
            count = len(batch)
            digest = np.frombuffer(batch.column("digest").buffers()[1], dtype="<u8").reshape(-1, 2)[:count]
            pieces.append(
                _Rows(
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
        return _Rows(none, none, none.astype(np.int64), none, none.astype(np.int8), none, np.zeros((0, 2), np.uint64), none > 0)
    return _Rows(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def _acceptable(rows: _Rows, spec: dict[str, Any], ledger: TableWriter, counts: Counter[str]) -> npt.NDArray[np.bool_]:
    """Return the rows that are trained on; the others go into the ledger with the reason."""
    limit = spec["tokenize"]["sequence_len"]
    untrained = rows.trained == 0
    too_long = np.zeros(len(untrained), dtype=bool)
    if limit is not None and spec["pack"]["strategy"] != "packed":
        too_long = (rows.length > limit) & ~untrained
    if too_long.any() and spec["tokenize"]["excess_length"] == "error":
        first = np.flatnonzero(too_long)[:1]
        (source, row_id) = next(_names(spec["parts"], rows, first))
        raise DataError(
            f"{source} {row_id}: {rows.length[first[0]]} tokens, sequence_len is {limit}; {int(too_long.sum())} rows are "
            "too long (tokenize.excess_length: drop leaves them out)"
        )
    reasons = ((untrained, "no_trained_token"), (too_long, "excess_length"))
    for mask, reason in reasons:
        chosen = np.flatnonzero(mask)
        counts[f"drop:{reason}"] += len(chosen)
        counts[f"drop_tokens:{reason}"] += int(rows.length[chosen].sum())
        for (source, row_id), length in zip(_names(spec["parts"], rows, chosen), rows.length[chosen].tolist(), strict=True):
            ledger.append(Entry(source, row_id, -1, "plan", "tokenize", "", "drop", reason, f"{length} tokens"))
    keep: npt.NDArray[np.bool_] = ~(untrained | too_long)
    return keep


def _names(parts: Sequence[Path], rows: _Rows, chosen: Int64) -> Any:
    """Yield (source, id) of chosen rows, which ascend by part and item."""
    for number in np.unique(rows.part[chosen]).tolist():
        items = rows.item[chosen[rows.part[chosen] == number]]
        first = 0
        for batch in read_batches(parts[number] / TOKENIZED_FILE):
            local = items[(items >= first) & (items < first + len(batch))] - first
            picked = batch.select(["source", "id"]).take(pa.array(local))
            yield from zip(picked.column(0).to_pylist(), picked.column(1).to_pylist(), strict=True)
            first += len(batch)


def _plan_split(folder: Path, name: str, rows: _Rows, chosen: Int64, spec: dict[str, Any]) -> dict[str, Any]:
    """Mix and pack one split, write its plan, and return what its shards will hold."""
    training = name == SPLITS[0]
    mix = spec["mix"] if training else {"strategy": "concat", "shuffle": False, "bins": None}
    mixed = mixing.mix(rows.digest[chosen], rows.category[chosen], seed=spec["seed"], **mix)
    order = chosen[mixed.order]
    strategy = spec["pack"]["strategy"] if training else spec["pack"]["validation"] or spec["pack"]["strategy"]
    length = spec["tokenize"]["sequence_len"] or int(rows.length[order].max(initial=1))
    packed = packing.pack(rows.length[order], mixed.bucket_ends, strategy=strategy, sequence_len=length, keys=mixed.keys)
    report = packing.report_packing(packed, rows.length[order], mixed.bucket_ends, strategy=strategy, sequence_len=length)
    row = np.repeat(np.arange(report.num_rows), np.diff(packed.pack_offsets))
    item = order[packed.item]
    with stream_writer(folder / plan_name(name), SEGMENT) as table:
        columns = [row, rows.part[item], rows.item[item], packed.start, packed.length]
        table.extend_columns([pa.array(column, type=field.type) for column, field in zip(columns, SEGMENT, strict=True)])
    ends = np.append(0, np.cumsum(packed.length, dtype=np.int64))
    row_tokens = np.diff(ends[packed.pack_offsets])
    return {
        "strategy": strategy,
        "rows": report.num_rows,
        "segments": report.num_segments,
        "samples": len(chosen),
        "tokens": report.num_tokens_out,
        "weighted": bool(rows.weighted[chosen].any()),
        "bucket_rows": [int(count) for count in packed.bucket_rows],
        "shard_rows": _cut_shards(row_tokens, spec["shards"]["max_bytes"]),
        "packing": asdict(report),
    }


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
