"""What became of the same records in two builds: by stage, by reason, row by row.

Rows are matched by (source, id). Memory: the names of all rows, and the ledger, of both builds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from sftdata.schemas import STAGES
from sftdata.shards import Shards, open_shards
from sftdata.views.tables import LEDGER_TABLE, LINEAGE_TABLE, stream_rows

ROW = ["source", "id"]
LEDGER_FIELDS = ["stage", "action", "step", "reason", "rule", "turn", "evidence", "before", "after"]
ABSENT = "absent"
FIELD, LINE = "\x1f", "\x1e"
"""Between the fields of a ledger line, and between lines."""
DECIDING = ["drop", "quarantine"]
COUNTS = ("kept", "dropped", "quarantined")


class Difference(NamedTuple):
    """One record that fared differently."""

    source: str
    id: str
    stage: str
    """Where the two part: `input` where only one build read the record, else one of `schemas.STAGES`."""
    before: str
    """In the first build: `train`, `validation`, `absent`, or who dropped it; then what was changed in it there alone."""
    after: str
    tokens_before: int
    tokens_after: int


class Group(NamedTuple):
    """The records that fared differently in the same way."""

    stage: str
    before: str
    after: str
    rows: list[Difference]


class StageCounts(NamedTuple):
    """What a stage of both builds did with its rows."""

    stage: str
    before: dict[str, int]
    after: dict[str, int]


class Diff(NamedTuple):
    """Two builds compared."""

    before: str
    after: str
    same: dict[str, bool]
    """Whether `recipe`, `inputs` and `code` are the same."""
    stages: list[StageCounts]
    num_same: int
    """Records of both builds that fared the same."""
    groups: list[Group]
    """By stage, the largest first."""


def diff(before: str | Path | Shards, after: str | Path | Shards) -> Diff:
    """Compare what became of every record in two builds. Raises DataError and DamagedError for a folder that is no build."""
    opened = [shards if isinstance(shards, Shards) else open_shards(shards) for shards in (before, after)]
    first, second = (shards.manifest for shards in opened)
    joined = _fates(opened[0]).join(
        _fates(opened[1]), keys=ROW, join_type="full outer", left_suffix="_before", right_suffix="_after"
    )
    filled = {name: _filled(joined, name) for name in joined.column_names}
    equal = None
    for name in ("fate", "tokens", "changes"):
        found = pc.equal(filled[f"{name}_before"], filled[f"{name}_after"])
        equal = found if equal is None else pc.and_(equal, found)
    other = pa.table(filled).filter(pc.invert(equal)).to_pylist()
    return Diff(
        str(opened[0].folder),
        str(opened[1].folder),
        {name: first["fingerprints"][name] == second["fingerprints"][name] for name in ("recipe", "inputs", "code")},
        [StageCounts(stage, *(_counts(manifest, stage) for manifest in (first, second))) for stage in STAGES],
        len(joined) - len(other),
        _groups(sorted((_difference(row) for row in other), key=_file_order)),
    )


def _counts(manifest: dict[str, Any], stage: str) -> dict[str, int]:
    return {name: manifest["counts"][stage].get(name, 0) for name in COUNTS}


def _filled(table: pa.Table, name: str) -> Any:
    empty: dict[str, str | int] = {"fate": ABSENT, "tokens": 0, "changes": ""}
    kind = name.partition("_")[0]
    return pc.fill_null(table.column(name), empty[kind]) if kind in empty else table.column(name)


def _fates(shards: Shards) -> pa.Table:
    """Return source, id, fate, tokens and changes of every record of a build: one line a record."""
    lineage = _read(shards, LINEAGE_TABLE, [*ROW, "split", "length", "copy"])
    lineage = lineage.filter(pc.equal(lineage.column("copy"), 0)).group_by(ROW).aggregate([("split", "min"), ("length", "sum")])
    lineage = lineage.rename_columns([*ROW, "split", "tokens"])
    ledger = _read(shards, LEDGER_TABLE, [*ROW, *LEDGER_FIELDS])
    decides = pc.is_in(ledger.column("action"), value_set=pa.array(DECIDING))
    fates = _joined(ledger.filter(decides), LEDGER_FIELDS[:5], "fate")
    changes = _joined(ledger.filter(pc.invert(decides)), LEDGER_FIELDS, "changes")
    table = lineage.join(fates, keys=ROW, join_type="full outer").join(changes, keys=ROW, join_type="full outer")
    fate = pc.coalesce(table.column("split"), table.column("fate"), pa.scalar(ABSENT))
    return pa.table({**{name: table.column(name) for name in (*ROW, "tokens", "changes")}, "fate": fate})


def _read(shards: Shards, table: str, columns: list[str]) -> pa.Table:
    """Return columns of a side table. Texts are long strings: those of a large ledger pass 2 GiB."""
    batches = [pa.Table.from_batches([batch]) for batch in stream_rows(shards, table, columns)]
    wide = pa.schema([(name, pa.int64() if name in ("length", "copy", "turn") else pa.large_string()) for name in columns])
    return pa.concat_tables([wide.empty_table(), *(batch.cast(wide) for batch in batches)])


def _joined(ledger: pa.Table, fields: Sequence[str], name: str) -> pa.Table:
    """Return source, id and all lines of each record as one text, in the order of the ledger."""
    texts = [ledger.column(field).cast(pa.large_string()) for field in fields]
    lines = pc.binary_join_element_wise(*texts, pa.scalar(FIELD, pa.large_string()))
    grouped = pa.table({**{key: ledger.column(key) for key in ROW}, "line": lines})
    found = grouped.group_by(ROW, use_threads=False).aggregate([("line", "list")])
    lists = found.column("line_list").combine_chunks().cast(pa.list_(pa.large_string()))
    joined = pc.binary_join(lists, pa.scalar(LINE, pa.large_string()))
    return pa.table({**{key: found.column(key) for key in ROW}, name: joined})


def _difference(row: dict[str, Any]) -> Difference:
    fates = row["fate_before"], row["fate_after"]
    changes = tuple(row[name].split(LINE) if row[name] else [] for name in ("changes_before", "changes_after"))
    own = [[line for line in changes[side] if line not in changes[1 - side]] for side in (0, 1)]
    told = [_told(fate, lines) for fate, lines in zip(fates, own, strict=True)]
    if told[0] == told[1]:
        told[1] += ", otherwise" if any(own) else ", other tokens"
    return Difference(
        row["source"], row["id"], _stage(fates, own), told[0], told[1], row["tokens_before"], row["tokens_after"]
    )


def _told(fate: str, lines: Sequence[str]) -> str:
    if FIELD in fate:
        _, action, step, reason, rule = fate.partition(LINE)[0].split(FIELD)
        fate = f"{'dropped' if action == 'drop' else 'quarantined'}: {step} {reason}" + (f", rule {rule}" if rule else "")
    told = dict.fromkeys(" ".join(filter(None, line.split(FIELD)[1:5])) for line in lines)
    return "; ".join([fate, *told])


def _stage(fates: tuple[str, str], own: Sequence[Sequence[str]]) -> str:
    """Return where the ways of a record part."""
    if ABSENT in fates:
        return "input"
    if fates[0] != fates[1]:
        stages = [fate.partition(FIELD)[0] for fate in fates if FIELD in fate]
        return min(stages, key=STAGES.index) if stages else "resolve"  # train and validation
    stages = [line.partition(FIELD)[0] for lines in own for line in lines]
    return min(stages, key=STAGES.index) if stages else "tokenize"


def _file_order(row: Difference) -> tuple[str, str, int, str]:
    file, _, key = row.id.rpartition("#")
    return row.source, file, len(key), key


def _groups(rows: Sequence[Difference]) -> list[Group]:
    found: dict[tuple[str, str, str], list[Difference]] = defaultdict(list)
    for row in rows:
        found[row.stage, row.before, row.after].append(row)
    order = ("input", *STAGES)
    groups = [Group(*key, group) for key, group in found.items()]
    return sorted(groups, key=lambda group: (order.index(group.stage), -len(group.rows), group.before, group.after))


def told(found: Diff, *, num_examples: int = 3) -> Iterator[str]:
    """Yield what a comparison found, line by line, with some records of each group."""
    alike = ", ".join(f"{name} {'the same' if same else 'differs'}" for name, same in found.same.items())
    yield f"{found.before} → {found.after}: {alike}"
    for stage in found.stages:
        some = [name for name in COUNTS if stage.before[name] or stage.after[name]]
        counts = ", ".join(f"{name} {stage.before[name]:,} → {stage.after[name]:,}" for name in some)
        yield f"  {stage.stage:<9} {counts}"
    num_other = sum(len(group.rows) for group in found.groups)
    yield f"{num_other:,} records fared differently, {found.num_same:,} did not"
    for group in found.groups:
        yield f"  {group.stage:<9} {len(group.rows):,}: {group.before} → {group.after}"
        names = ", ".join(f"{row.source} {row.id}" for row in group.rows[:num_examples])
        yield f"            {names}" + (" …" if len(group.rows) > num_examples else "")
