"""Resolve, the first decision: over all prepared rows together, which are duplicates and which side of the split each is on.

One process reads 16-byte digests, never texts; the decisions are written part by part, in row order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from sftdata import dedup, progress
from sftdata.entries import DOCUMENTS_FILE, KEYS_FILE, LEDGER_FILE, decisions_name
from sftdata.ledger import Entry
from sftdata.schemas import LEDGER
from sftdata.shuffling import keyed_hash
from sftdata.tables import read_batches, stream_writer

DECISION = pa.schema([("keep", pa.bool_()), ("split", pa.int8())])
"""Row for row beside a part's documents; `split` indexes `schemas.SPLITS`."""


def resolve(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Decide over all rows; return counts and, part by part, a digest of which rows stay.

    `spec`: `parts` (folders of prepared parts, in row order), `dedup` (options or None), `split`, `seed`.
    """
    digests, part_rows = _read_digests(spec["parts"])
    keep = np.ones(len(digests), dtype=bool)
    counts: Counter[str] = Counter(rows=len(digests))
    with stream_writer(folder / LEDGER_FILE, LEDGER) as ledger:
        if spec["dedup"] is not None:
            exempt = _exempt(spec["parts"], len(digests), spec["dedup"]["allow"])
            found = dedup.exact(digests, exempt, max_copies=spec["dedup"]["max_copies"])
            keep = ~found.surplus
            for entry in _duplicate_entries(spec["parts"], part_rows, found):
                ledger.append(entry)
    split = split_side(digests, spec["split"]["validation"], spec["seed"])
    counts["dropped"] = counts["drop:dedup:duplicate"] = int(np.count_nonzero(~keep))
    counts["kept"] = int(np.count_nonzero(keep))
    kept_digests = _write_decisions(folder, part_rows, keep, split)
    return {"counts": dict(counts), "part_rows": part_rows, "kept_digests": kept_digests}


def _read_digests(parts: Sequence[str]) -> tuple[npt.NDArray[np.uint64], list[int]]:
    """Return the digests of all rows, (n, 2) uint64, and the number of rows of each part."""
    pieces = []
    part_rows = []
    for part in parts:
        batches = [_digest_words(batch.column("digest")) for batch in read_batches(Path(part) / KEYS_FILE)]
        part_rows.append(sum(map(len, batches)))
        pieces.extend(batches)
        progress.tick(part_rows[-1])
    empty = np.zeros((0, 2), dtype=np.uint64)
    return np.concatenate([empty, *pieces]), part_rows


def _digest_words(column: pa.FixedSizeBinaryArray) -> npt.NDArray[np.uint64]:
    data = np.frombuffer(column.buffers()[1], dtype="<u8").reshape(-1, 2)
    return data[column.offset : column.offset + len(column)].astype(np.uint64)


def _exempt(parts: Sequence[str], num_rows: int, allowed: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return the rows one of whose texts stands in the allow list, (n,)."""
    exempt = np.zeros(num_rows, dtype=bool)
    if not allowed:
        return exempt
    wanted = np.array([xxhash.xxh3_64_intdigest(text.encode("utf-8")) for text in allowed], dtype=np.uint64)
    done = 0
    for part in parts:
        for batch in read_batches(Path(part) / KEYS_FILE):
            texts = batch.column("text_digests")
            hits = np.isin(texts.flatten().to_numpy(), wanted)
            row_of_text = np.repeat(np.arange(len(texts)), np.diff(texts.offsets.to_numpy()))
            exempt[done + row_of_text[hits]] = True
            done += len(texts)
    return exempt


def _duplicate_entries(parts: Sequence[str], part_rows: Sequence[int], found: dedup.Duplicates) -> Iterator[Entry]:
    rows = np.flatnonzero(found.surplus)
    wanted = np.union1d(rows, found.survivor[rows])
    names = dict(zip(wanted.tolist(), _names(parts, part_rows, wanted), strict=True))
    for row in rows.tolist():
        source, row_id = names[row]
        first_source, first_id = names[int(found.survivor[row])]
        survivor = f"{first_source} {first_id}"
        yield Entry(source, row_id, -1, "resolve", "dedup", "exact", "drop", "duplicate", survivor)


def _names(parts: Sequence[str], part_rows: Sequence[int], rows: npt.NDArray[np.int64]) -> Iterator[tuple[str, str]]:
    """Yield (source, id) of the given rows, which ascend over all parts."""
    first = 0
    for part, num_rows in zip(parts, part_rows, strict=True):
        if len(rows[(rows >= first) & (rows < first + num_rows)]):
            for batch in read_batches(Path(part) / DOCUMENTS_FILE):
                local = rows[(rows >= first) & (rows < first + len(batch))] - first
                picked = batch.select(["source", "id"]).take(pa.array(local))
                yield from zip(picked.column(0).to_pylist(), picked.column(1).to_pylist(), strict=True)
                first += len(batch)
        else:
            first += num_rows


def split_side(digests: npt.NDArray[np.uint64], validation: float, seed: int) -> npt.NDArray[np.int8]:
    """Return 1 for rows of the validation split and 0 for the others, (n,).

    A pure function of (seed, content digest): exact copies stay together, and adding files moves no row.
    """
    words = np.ascontiguousarray(digests[:, 0] ^ (digests[:, 1] * np.uint64(3)))
    position = keyed_hash(words, seed=seed, purpose="split").astype(np.float64) / 2.0**64
    return (position < validation).astype(np.int8)


def _write_decisions(
    folder: Path, part_rows: Sequence[int], keep: npt.NDArray[np.bool_], split: npt.NDArray[np.int8]
) -> list[str]:
    kept_digests = []
    first = 0
    for part, num_rows in enumerate(part_rows):
        rows = slice(first, first + num_rows)
        with stream_writer(folder / decisions_name(part), DECISION) as table:
            table.extend_columns([pa.array(keep[rows]), pa.array(split[rows])])
        kept_digests.append(xxhash.xxh3_128_hexdigest(np.packbits(keep[rows]).tobytes()))
        first += num_rows
    return kept_digests
