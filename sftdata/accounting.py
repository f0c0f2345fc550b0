"""Accounting: rows and tokens in and out of every stage, and the limits at which a build stops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from sftdata.entries import LEDGER_FILE, QUARANTINE_FILE
from sftdata.errors import ConservationError, DataError
from sftdata.recipe import Limits
from sftdata.tables import read_batches

Counts = dict[str, int]

MIN_BAD_ROWS = 10
"""Quarantined rows below which `limits.max_bad` does not act: a share means nothing on a handful."""


ASKED_FOR = ("drop:left_out", "drop:without:removed")
"""Drops that `limits.max_drop` does not count: what the mixture leaves out, and records removed by name."""


def add_counts(summaries: Iterable[dict[str, Any]]) -> Counts:
    """Return the sum of the counts of a stage's tasks, by name."""
    total: Counter[str] = Counter(kept=0, dropped=0, quarantined=0)
    for summary in summaries:
        total.update(summary["counts"])
    return dict(sorted(total.items()))


def check_limits(stage: str, counts: Counts, limits: Limits, entries: Sequence[Path]) -> None:
    """Raise DataError where a stage quarantined or dropped more than the recipe's share of its rows.

    `entries` are the folders of the stage's results: one quarantined row is shown, or the rules that dropped most.
    """
    num_rows = counts.get("records", counts.get("rows", 0))
    num_bad = counts.get("quarantined", 0)
    num_dropped = counts.get("dropped", 0) - sum(counts.get(name, 0) for name in ASKED_FOR)
    if num_bad >= MIN_BAD_ROWS and num_bad > limits.max_bad * num_rows:
        raise DataError(
            f"{stage}: {num_bad:,} of {num_rows:,} rows cannot be used ({_reasons(counts, 'quarantine:')}); limits.max_bad is "
            f"{limits.max_bad:g}, this is {num_bad / num_rows:.3g}{_example([entry / QUARANTINE_FILE for entry in entries])}"
        )
    if num_dropped > limits.max_drop * num_rows:
        rules = _rules(entries) if stage == "prepare" else ""  # those of later stages are measures, as of similarity
        raise DataError(
            f"{stage}: {num_dropped:,} of {num_rows:,} rows are dropped ({_reasons(counts, 'drop:')}{rules}); "
            f"limits.max_drop is {limits.max_drop:g}, this is {num_dropped / num_rows:.3g}"
        )


def _reasons(counts: Counts, prefix: str) -> str:
    found = sorted(((count, name) for name, count in counts.items() if name.startswith(prefix) and count), reverse=True)
    return ", ".join(f"{name.removeprefix(prefix)} {count:,}" for count, name in found[:5]) or "no reason given"


def _rules(entries: Sequence[Path]) -> str:
    """Return the rules that dropped most rows, with the number of each; nothing where no step has rules."""
    found: Counter[str] = Counter()
    for entry in entries:
        for batch in read_batches(entry / LEDGER_FILE):
            drops = batch.filter(pc.equal(batch.column("action"), "drop"))
            found.update({pair["values"]: pair["counts"] for pair in drops.column("rule").value_counts().to_pylist()})
    del found[""]
    named = ", ".join(f"{rule} {count:,}" for rule, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))[:5])
    return f"; by rule: {named}" if named else ""


def _example(quarantines: Sequence[Path]) -> str:
    for path in filter(Path.is_file, quarantines):
        for batch in read_batches(path):
            if len(batch):
                row = batch.slice(0, 1).to_pylist()[0]
                return f"; the first: {row['source']} {row['id']}: {row['reason']}, {row['place']}"
    return ""


def check_sources(names: Sequence[str], summaries: Sequence[dict[str, Any]]) -> None:
    """Raise DataError for a source that gave no record at all. names, summaries: one for each part."""
    totals: Counter[str] = Counter()
    for name, summary in zip(names, summaries, strict=True):
        totals[name] += summary["counts"].get("records", 0)
    for name, total in totals.items():
        if not total:
            raise DataError(f"source {name!r} gave no record: its files are empty, or its ingest options match nothing in them")


def check_some_kept(counts: Counts, quarantines: Sequence[Path]) -> None:
    """Raise DataError where every record was quarantined."""
    if not counts["kept"]:
        raise DataError(f"none of {counts['records']:,} records can be used{_example(quarantines)}")


def check_conservation(counts: dict[str, Any]) -> None:
    """Raise ConservationError unless every row and token that went into a stage came out of it or is accounted for.

    counts: stage name → counts; `gather` holds counts by split.
    """
    gathered = counts["gather"].values()
    equal = (
        ("rows from prepare to resolve", counts["prepare"]["kept"], counts["resolve"].get("rows", 0)),
        ("rows from resolve to tokenize", counts["resolve"]["kept"], counts["tokenize"].get("rows", 0)),
        ("rows from tokenize to plan", counts["tokenize"]["kept"], counts["plan"].get("rows", 0)),
        ("tokens from tokenize to plan", counts["tokenize"].get("tokens", 0), counts["plan"].get("tokens", 0)),
        ("tokens in plan", counts["plan"].get("tokens", 0), _tokens_out(counts["plan"])),
        ("tokens from plan to the shards", counts["plan"]["kept_tokens"], sum(split["tokens"] for split in gathered)),
        ("rows in prepare", counts["prepare"].get("records", 0), _out(counts["prepare"])),
        ("rows in resolve", counts["resolve"].get("rows", 0), _out(counts["resolve"])),
        ("rows in tokenize", counts["tokenize"].get("rows", 0), _out(counts["tokenize"])),
        ("rows in plan", counts["plan"].get("rows", 0), _out(counts["plan"])),
    )
    for what, before, after in equal:
        if before != after:
            raise ConservationError(f"{what}: {before:,} in, {after:,} out; nothing is published, please report this")


def _tokens_out(counts: Counts) -> int:
    dropped = sum(count for name, count in counts.items() if name.startswith("drop_tokens:"))
    return counts["kept_tokens"] + counts["cut_tokens"] + dropped - counts.get("repeated_tokens", 0)


def _out(counts: Counts) -> int:
    return counts["kept"] + counts.get("dropped", 0) + counts.get("quarantined", 0)
