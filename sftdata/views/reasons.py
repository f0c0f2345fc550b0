"""Why records were dropped, changed or put aside: the ledger counted, with real samples of every reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, islice, zip_longest
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sftdata.errors import DamagedError
from sftdata.schemas import ACTIONS, STAGES
from sftdata.shards import Shards
from sftdata.views.tables import LEDGER_TABLE, QUARANTINE_TABLE, read_rows, side_table

NUM_SAMPLES = 10
"""Samples shown of a reason."""
MAX_KINDS = 5000
"""Kinds of ledger lines that are told apart: a step of the user's own may give every row a reason of its own."""

KEYS = ["stage", "action", "step", "reason", "rule", "source"]
TEXTS = ["id", "turn", "evidence", "before", "after"]
SEVERITY = ("quarantine", "drop", "drop_turn", "merge", "cut", "mask", "weight", "edit", "repeat", "flag")
"""The actions, those that lose most first."""
assert sorted(SEVERITY) == sorted(ACTIONS)


class Kind(NamedTuple):
    """What lines of the ledger have in common."""

    stage: str
    action: str
    step: str
    reason: str
    rule: str
    source: str


class Sample(NamedTuple):
    """One line of the ledger."""

    source: str
    rule: str
    id: str
    turn: int
    evidence: str
    before: str
    after: str
    raw: str
    """The first bytes of a quarantined record, as text."""


class Reason(NamedTuple):
    """A reason with the number of its lines and some of them."""

    stage: str
    action: str
    step: str
    reason: str
    num_lines: int
    samples: list[Sample]


class Ledger(NamedTuple):
    """A ledger, counted."""

    counts: Counter[Kind]
    samples: dict[Kind, list[Sample]]
    num_other: int
    """Lines of kinds past `MAX_KINDS`, which are counted here and nowhere else."""


def read_ledger(shards: Shards) -> Ledger:
    """Count the lines of a build's ledger by kind and pick the first of each. Raises DamagedError.

    Reads one row group at a time; texts only of the row groups from which a sample is picked.
    """
    counts: Counter[Kind] = Counter()
    picked: defaultdict[Kind, list[dict[str, Any]]] = defaultdict(list)
    num_other = 0
    path = side_table(shards, LEDGER_TABLE)
    try:
        with pq.ParquetFile(path, read_dictionary=KEYS) as file:
            for group in range(file.num_row_groups):
                rows: dict[int, Kind] = {}
                for kind, lines in _kinds(file.read_row_group(group, columns=KEYS)):
                    if kind not in counts and len(counts) >= MAX_KINDS:
                        num_other += len(lines)
                        continue
                    counts[kind] += len(lines)
                    rows.update(dict.fromkeys(lines[: NUM_SAMPLES - len(picked[kind])].tolist(), kind))
                if rows:
                    texts = file.read_row_group(group, columns=TEXTS).take(pa.array(sorted(rows)))
                    for row, values in zip(sorted(rows), texts.to_pylist(), strict=True):
                        picked[rows[row]].append(values)
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    raw = _raw_records(shards, picked)
    samples = {kind: [_sample(kind, values, raw) for values in rows] for kind, rows in picked.items()}
    return Ledger(counts, samples, num_other)


def _kinds(table: pa.Table) -> Iterator[tuple[Kind, np.ndarray]]:
    """Yield every kind in a row group, sorted, and the numbers of its lines, ascending."""
    import pandas

    frame: pandas.DataFrame = table.to_pandas()
    groups: dict[Any, Any] = frame.groupby(KEYS, observed=True, sort=False).indices
    for kind in sorted(groups):
        yield Kind(*kind), np.sort(groups[kind])


def _raw_records(shards: Shards, picked: dict[Kind, list[dict[str, Any]]]) -> dict[tuple[str, str, str], str]:
    """Return the first bytes of the quarantined records among those picked, by (source, id, reason)."""
    ids = sorted({row["id"] for kind, rows in picked.items() if kind.action == "quarantine" for row in rows})
    if not ids:
        return {}
    rows = read_rows(shards, QUARANTINE_TABLE, [("id", "in", ids)])
    return {(row["source"], row["id"], row["reason"]): row["bytes"].decode("utf-8", "replace") for row in rows}


def _sample(kind: Kind, values: dict[str, Any], raw: dict[tuple[str, str, str], str]) -> Sample:
    found = raw.get((kind.source, values["id"], kind.reason), "") if kind.action == "quarantine" else ""
    return Sample(source=kind.source, rule=kind.rule, raw=found, **values)


def reasons(ledger: Ledger) -> list[Reason]:
    """Return the reasons of a ledger by stage, the most serious actions first, then by number.

    The samples of a reason come from all its sources and rules in turn.
    """
    groups: defaultdict[tuple[str, str, str, str], list[Kind]] = defaultdict(list)
    for kind, _ in ledger.counts.most_common():
        groups[kind[:4]].append(kind)
    found = [
        Reason(*key, sum(ledger.counts[kind] for kind in kinds), _in_turn([ledger.samples[kind] for kind in kinds]))
        for key, kinds in groups.items()
    ]
    return sorted(found, key=lambda row: (STAGES.index(row.stage), SEVERITY.index(row.action), -row.num_lines, row[2:4]))


def _in_turn(groups: Sequence[Sequence[Sample]]) -> list[Sample]:
    """Return up to `NUM_SAMPLES` samples, the first of each group, then the second of each."""
    taken = (sample for sample in chain.from_iterable(zip_longest(*groups)) if sample is not None)
    return list(islice(taken, NUM_SAMPLES))
