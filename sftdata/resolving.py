"""Resolve, the first decision: over all prepared rows together, which are duplicates and which side of the split each is on.

One process reads digests and signatures, never texts; the decisions are written part by part, in row order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from sftdata import progress
from sftdata.dedup.deciding import Decider, Sources
from sftdata.dedup.items import Int64, Items, digest_words
from sftdata.dedup.survivors import NearDuplicates, Pairs, clusters
from sftdata.entries import DOCUMENTS_FILE, KEYS_FILE, LEDGER_FILE, decisions_name, signed_name
from sftdata.schemas import LEDGER
from sftdata.shuffling import keyed_hash
from sftdata.tables import TableWriter, read_batches, stream_writer

DECISION = pa.schema([("keep", pa.bool_()), ("split", pa.int8()), ("marks", pa.string())])
"""Row for row beside a part's documents; `split` indexes `schemas.SPLITS`, `marks` are as in DOCUMENT."""

REASONS = {"exact": "duplicate", "minhash": "near_duplicate"}

LEDGER_ROWS = 1 << 14
"""Lines of the ledger that are made at once."""


@dataclass
class _State:
    """What is decided so far."""

    parts: list[Path]
    part_rows: list[int]
    keep: npt.NDArray[np.bool_]
    counts: Counter[str]
    marks: dict[int, list[list[Any]]] = field(default_factory=dict)
    """Row → marks."""
    documents: Items | None = None
    """What the ledger reads names from, opened when the first is asked for."""
    pairs: dict[tuple[int, float], Pairs] = field(default_factory=dict)
    """(Number of the signatures, threshold) → pairs of similar items, which the split may need again."""


def resolve(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Decide over all rows; return counts and, part by part, a digest of which rows stay, with which marks.

    `spec`: `parts` (folders of prepared parts, in row order), `signed` (folders of their signatures), `sources` (a name for
    each part), `dedup` (steps, each `Dedup.settings()` with `signed`, the number of its signatures or None, and `bands`),
    `near_duplicates` (such a step, or None), `split`, `seed`.
    """
    parts = [Path(part) for part in spec["parts"]]
    part_rows = [sum(map(len, read_batches(part / KEYS_FILE))) for part in parts]
    num_rows = sum(part_rows)
    state = _State(parts, part_rows, np.ones(num_rows, dtype=bool), Counter(rows=num_rows))
    with stream_writer(folder / LEDGER_FILE, LEDGER) as ledger:
        for step in spec["dedup"]:
            _deduplicate(state, step, spec, ledger)
    split = _sides(state, spec, _near_copies(state, spec))
    kept = int(np.count_nonzero(state.keep))
    state.counts.update(kept=kept, dropped=num_rows - kept)
    kept_digests = _write_decisions(folder, part_rows, state.keep, split, state.marks)
    return {"counts": dict(state.counts), "part_rows": part_rows, "kept_digests": kept_digests}


def _decider(state: _State, step: dict[str, Any], spec: dict[str, Any]) -> Decider:
    if step["signed"] is None:
        files = [part / KEYS_FILE for part in state.parts]
    else:
        files = [Path(folder) / signed_name(step["signed"]) for folder in spec["signed"]]
    sources = Sources(np.cumsum(state.part_rows), spec["sources"])
    return Decider(step, Items(files, state.part_rows), sources)


def _deduplicate(state: _State, step: dict[str, Any], spec: dict[str, Any], ledger: TableWriter) -> None:
    """Carry out one step: rows are dropped, or turns lose their loss."""
    decider = _decider(state, step, spec)
    pairs = None
    if step["method"] == "minhash":
        pairs = decider.similar(state.keep)
        wanted = spec["near_duplicates"]
        if wanted is not None and _pairs_key(wanted) == _pairs_key(step):
            state.pairs.setdefault(_pairs_key(step), pairs)
    found = decider.decide(state.keep, pairs)
    progress.tick(len(decider.items))
    over_turns = step["over"] == "turn"
    action = "mask" if over_turns else "drop"
    state.counts[f"{action}:dedup:{REASONS[step['method']]}"] += len(found.item)
    if over_turns:
        rows = decider.items.rows(found.item).tolist()
        for row, paths in zip(rows, decider.items.take("paths", found.item), strict=True):
            state.marks.setdefault(row, []).extend([path, "mask_loss", 0.0] for path in orjson.loads(paths))
    else:
        state.keep[decider.items.rows(found.item)] = False
    for first in range(0, len(found.item), LEDGER_ROWS):
        lines = slice(first, first + LEDGER_ROWS)
        piece = NearDuplicates(found.item[lines], found.survivor[lines], found.similarity[lines])
        _write_ledger(state, step, decider.items, piece, ledger)


def _pairs_key(step: dict[str, Any]) -> tuple[int, float]:
    return step["signed"], step["threshold"]


def _write_ledger(state: _State, step: dict[str, Any], items: Items, found: NearDuplicates, ledger: TableWriter) -> None:
    """Write a line for each item that goes: the evidence is the record that stays in its place, the rule how alike they are."""
    num_lines = len(found.item)
    source, row_id = _names(state, items.rows(found.item))
    evidence = pc.binary_join_element_wise(*_names(state, items.rows(found.survivor)), " ")
    turns = np.full(num_lines, -1, dtype=np.int32)
    action, over = "drop", "" if step["over"] == "document" else f" over {step['over']}"
    if step["over"] == "turn":
        action, turns = "mask", items.numbers("turn", found.item).astype(np.int32)
    if step["method"] == "exact":
        rules = pa.repeat(f"exact{over}", num_lines)
    else:
        rules = pa.array([f"minhash{over} {similarity:.2f}" for similarity in found.similarity.tolist()], pa.string())
    what = [pa.repeat(text, num_lines) for text in ("resolve", "dedup")]
    why = [pa.repeat(text, num_lines) for text in (action, REASONS[step["method"]])]
    nothing = pa.repeat("", num_lines)
    ledger.extend_columns([source, row_id, pa.array(turns), *what, rules, *why, evidence, nothing, nothing])


def _names(state: _State, rows: Int64) -> tuple[pa.Array, pa.Array]:
    """Return source and id of rows, (m,) each."""
    state.documents = documents = state.documents or Items([part / DOCUMENTS_FILE for part in state.parts], state.part_rows)
    wanted, place = np.unique(rows, return_inverse=True)
    columns = (pa.array(documents.take(name, wanted), pa.string()).take(pa.array(place)) for name in ("source", "id"))
    return next(columns), next(columns)


def _near_copies(state: _State, spec: dict[str, Any]) -> tuple[Int64, Int64] | None:
    """Return the rows that have near-copies, ascending, and the first row of each one's cluster; None where nobody asks."""
    step = spec["near_duplicates"]
    if step is None:
        return None
    decider = _decider(state, step, spec)
    pairs = state.pairs.get(_pairs_key(step)) or decider.similar(state.keep)
    rows = decider.items.rows
    return clusters(Pairs(rows(pairs.first), rows(pairs.second), pairs.similarity))


def split_side(digests: npt.NDArray[np.uint64], validation: float, seed: int) -> npt.NDArray[np.int8]:
    """Return 1 for rows of the validation split and 0 for the others, (n,).

    A pure function of (seed, content digest): exact copies stay together, and adding files moves no row.
    """
    words = np.ascontiguousarray(digests[:, 0] ^ (digests[:, 1] * np.uint64(3)))
    position = keyed_hash(words, seed=seed, purpose="split").astype(np.float64) / 2.0**64
    return (position < validation).astype(np.int8)


def _sides(state: _State, spec: dict[str, Any], groups: tuple[Int64, Int64] | None) -> npt.NDArray[np.int8]:
    """Return the side of each row, (rows,). A cluster of near-copies lies where the smallest digest of its rows says."""
    keys = Items([part / KEYS_FILE for part in state.parts], state.part_rows)
    validation, seed = spec["split"]["validation"], spec["seed"]
    side = np.zeros(len(keys), dtype=np.int8)
    if validation:
        for first, rows, [column] in keys.scan("digest"):
            side[first : first + len(rows)] = split_side(digest_words(column), validation, seed)
    if groups is not None:
        rows, sides = _cluster_sides(keys, groups, validation, seed)
        side[rows] = sides
    return side


def _cluster_sides(
    keys: Items, groups: tuple[Int64, Int64], validation: float, seed: int
) -> tuple[Int64, npt.NDArray[np.int8]]:
    rows, heads = groups
    words = np.frombuffer(b"".join(keys.take("digest", rows)), dtype="<u8").reshape(-1, 2).astype(np.uint64)
    order = np.lexsort((words[:, 1], words[:, 0], heads))
    _, first, group = np.unique(heads[order], return_index=True, return_inverse=True)
    sides = np.empty(len(rows), dtype=np.int8)
    sides[order] = split_side(words[order[first]], validation, seed)[group]
    return rows, sides


def _write_decisions(
    folder: Path,
    part_rows: Sequence[int],
    keep: npt.NDArray[np.bool_],
    split: npt.NDArray[np.int8],
    marks: Mapping[int, list[list[Any]]] | None = None,
) -> list[str]:
    """Write the decisions, one file a part. keep, split: (rows,). marks: row → marks."""
    texts = {row: orjson.dumps(found).decode() for row, found in sorted((marks or {}).items())}
    marked = np.array(list(texts), dtype=np.int64)
    kept_digests = []
    first = 0
    for part, num_rows in enumerate(part_rows):
        rows = slice(first, first + num_rows)
        mine = marked[slice(*np.searchsorted(marked, (first, first + num_rows)))].tolist()
        column = [texts.get(row) for row in range(first, first + num_rows)] if mine else [None] * num_rows
        with stream_writer(folder / decisions_name(part), DECISION) as table:
            table.extend_columns([pa.array(keep[rows]), pa.array(split[rows]), pa.array(column, pa.string())])
        digest = xxhash.xxh3_128(np.packbits(keep[rows]).tobytes())
        for row in mine:
            digest.update(f"{row - first} {texts[row]}\n".encode())
        kept_digests.append(digest.hexdigest())
        first += num_rows
    return kept_digests
