"""The check of a build: files against checksums, rows and tokens against counts, masks against their rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sftdata.accounting import check_conservation
from sftdata.errors import ConservationError, DamagedError
from sftdata.mirroring import copied
from sftdata.remote import is_url
from sftdata.run_record import REPORT_FILE, RUN_FILE, damaged_record
from sftdata.schemas import IGNORE_INDEX
from sftdata.shards import MANIFEST, Shards, Split, find_build, open_shards
from sftdata.views.tables import LEDGER_TABLE, LINEAGE_TABLE, QUARANTINE_TABLE, stream_rows

MAX_PROBLEMS = 50
"""Problems after which a split is not looked at further."""


class Verified(NamedTuple):
    """What a check found."""

    folder: str
    problems: list[str]
    num_files: int
    num_rows: int
    num_tokens: int
    num_trained: int

    @property
    def sound(self) -> bool:
        """True where nothing is wrong."""
        return not self.problems


def verify(shards: str | Path) -> Verified:
    """Check a build: checksums, row conservation, mask invariants. Raises DataError where there is no build.

    One that was published at a URL is copied anew for that, and removed again.
    """
    if is_url(shards):
        with copied(str(shards)) as folder:
            return verify(folder)._replace(folder=str(shards))
    folder = find_build(Path(shards))
    try:
        opened = open_shards(folder)
    except DamagedError as error:
        return Verified(str(folder), [str(error)], 0, 0, 0, 0)
    problems = [f"{name}: does not match its checksum" for name in (*opened.damaged_files(), *damaged_record(folder))]
    problems.extend(_unknown_files(opened))
    if not problems:  # what is damaged on the disk is not worth a closer look
        problems.extend(_conservation_problems(opened))
        for split in opened.splits.values():
            problems.extend(_split_problems(opened, split))
    totals = [
        sum(entry[name] for entry in opened.manifest["splits"].values()) for name in ("rows", "tokens", "trained_tokens")
    ]
    return Verified(str(folder), problems, len(opened.manifest["files"]), *totals)


def _unknown_files(shards: Shards) -> Iterator[str]:
    known = {entry["path"] for entry in shards.manifest["files"]} | {MANIFEST, RUN_FILE, REPORT_FILE}
    for path in sorted(shards.folder.rglob("*")):
        name = path.relative_to(shards.folder).as_posix()
        if path.is_file() and name not in known:
            yield f"{name}: is not in the manifest"


def _conservation_problems(shards: Shards) -> Iterator[str]:
    """Compare the counts with each other, and with the rows of ledger and quarantine."""
    counts = shards.manifest["counts"]
    try:
        check_conservation(counts)
    except ConservationError as error:
        yield f"{MANIFEST}: {error}"
    stages = ("prepare", "resolve", "tokenize", "plan")
    found = _actions(shards)
    for action, name in (("quarantine", "quarantined"), ("drop", "dropped")):
        expected = sum(counts[stage][name] for stage in stages)
        if found.get(action, 0) != expected:
            yield f"ledger.parquet: {found.get(action, 0):,} rows say {action}, the manifest counts {expected:,}"
    num_quarantined = sum(len(batch) for batch in stream_rows(shards, QUARANTINE_TABLE, ["id"]))
    if num_quarantined != found.get("quarantine", 0):
        yield f"quarantine.parquet: {num_quarantined:,} rows, the ledger has {found.get('quarantine', 0):,}"


def _actions(shards: Shards) -> dict[str, int]:
    totals: dict[str, int] = {}
    for batch in stream_rows(shards, LEDGER_TABLE, ["action"]):
        for entry in batch.column("action").value_counts().to_pylist():
            totals[entry["values"]] = totals.get(entry["values"], 0) + entry["counts"]
    return totals


def _split_problems(shards: Shards, split: Split) -> Iterator[str]:
    """Check every row of a split: labels, borders, lengths, lineage, and the totals of the manifest."""
    entry = shards.manifest["splits"][split.name]
    limit = None if shards.manifest["compat"] == "tinystories" else shards.manifest["sequence_len"]
    totals = {"rows": 0, "segments": 0, "tokens": 0, "trained_tokens": 0}
    lengths = []
    num_problems = 0
    for batch in split.flat_batches():
        for problem in _batch_problems(batch, limit, totals["rows"], shards.manifest["compat"] is not None):
            yield f"{split.name} {problem}"
            num_problems += 1
            if num_problems >= MAX_PROBLEMS:
                return
        lengths.append(_segment_lengths(batch))
        totals["rows"] += len(batch["input_ids"][0]) - 1
        totals["segments"] += len(lengths[-1])
        totals["tokens"] += len(batch["input_ids"][1])
        totals["trained_tokens"] += int(np.count_nonzero(batch["labels"][1] != IGNORE_INDEX))
    for name, total in totals.items():
        if total != entry[name]:
            yield f"{split.name}: {total:,} {name}, the manifest counts {entry[name]:,}"
    traced = _lineage_lengths(shards, split.name)
    if not np.array_equal(traced, np.concatenate([np.zeros(0, dtype=np.int32), *lengths])):
        yield f"{split.name}: the lineage does not name the origin of every segment"


Columns = dict[str, tuple[np.ndarray, np.ndarray]]


def _segment_lengths(batch: Columns) -> np.ndarray:
    return batch["seq_lengths"][1] if "seq_lengths" in batch else np.diff(batch["input_ids"][0])


def _batch_problems(batch: Columns, limit: int | None, first_row: int, published: bool) -> Iterator[str]:
    offsets, ids = batch["input_ids"]
    label_offsets, labels = batch["labels"]
    if not np.array_equal(offsets, label_offsets):
        yield f"rows from {first_row}: input_ids and labels differ in length"
        return
    rules: list[tuple[Any, str]] = [
        ((labels != IGNORE_INDEX) & (labels != ids), "a label is neither -100 nor its token"),
    ]
    lengths = _segment_lengths(batch)
    borders = np.cumsum(lengths, dtype=np.int64) - lengths
    if lengths.sum(dtype=np.int64) != len(ids) or not np.isin(offsets[:-1], np.append(borders, len(ids))).all():
        yield f"rows from {first_row}: seq_lengths do not add up to the rows"
        return
    at_border = np.zeros(len(ids), dtype=bool)
    at_border[borders[lengths > 0]] = True
    if not published:
        rules.append((at_border & (labels != IGNORE_INDEX), "the first token of a document is trained"))
    if "attention_mask" in batch:
        rules.append((batch["attention_mask"][1] != 1, "attention_mask is not 1"))
    if "loss_weights" in batch:
        weights = batch["loss_weights"][1]
        rules.append((~np.isfinite(weights) | (weights < 0), "a loss weight is negative or no number"))
    for wrong, what in rules:
        for row in np.unique(np.searchsorted(offsets, np.flatnonzero(wrong), side="right") - 1).tolist():
            yield f"row {first_row + row}: {what}"
    if limit is not None:
        for row in np.flatnonzero(np.diff(offsets) > limit).tolist():
            yield f"row {first_row + row}: {offsets[row + 1] - offsets[row]} tokens, sequence_len is {limit}"


def _lineage_lengths(shards: Shards, split: str) -> np.ndarray:
    pieces = [np.zeros(0, dtype=np.int32)]
    for batch in stream_rows(shards, LINEAGE_TABLE, ["split", "length"]):
        mine = np.array(batch.column("split").to_pylist(), dtype=object) == split
        pieces.append(batch.column("length").to_numpy()[mine])
    return np.concatenate(pieces)
