"""The life of one raw record: where it was read, what was changed, why it was dropped, or where it was packed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from sftdata.errors import DataError
from sftdata.shards import Shards, open_shards
from sftdata.views.decoding import Decoder
from sftdata.views.tables import LEDGER_TABLE, LINEAGE_TABLE, QUARANTINE_TABLE, read_rows, stream_rows

MAX_LIVES = 20
"""Records that a search by text returns at most."""

Key = tuple[str, str]


class Event(NamedTuple):
    """One line of the ledger."""

    stage: str
    step: str
    rule: str
    action: str
    reason: str
    turn: int
    evidence: str
    before: str
    after: str


class Placement(NamedTuple):
    """Where tokens of the record stand."""

    split: str
    row: int
    segment: int
    start: int
    length: int
    copy: int


class Life(NamedTuple):
    """One record from its file to its end."""

    source: str
    id: str
    file: str
    outcome: str
    """`trained`, `validation`, `dropped` or `quarantined`."""
    events: list[Event]
    raw: str
    """The first bytes of a quarantined record, as text."""
    placements: list[Placement]
    text: str
    """The record as it is trained, control tokens included."""
    duplicates: list[str]
    """`source id` of the records that were dropped as copies of this one."""


def why(shards: str | Path | Shards, wanted: str) -> list[Life]:
    """Return the lives of the records with an id, or of those in which a text occurs.

    `wanted` is an id, `source id`, or any text: of a kept row, of a change in the ledger, or of a quarantined record. Raises
    DataError where nothing matches.
    """
    opened = shards if isinstance(shards, Shards) else open_shards(shards)
    if not wanted.strip():
        raise DataError("why: give a record's id or some of its text")
    decoder = Decoder(opened)
    keys = _by_id(opened, wanted) or list(_by_text(opened, wanted, decoder))[:MAX_LIVES]
    if not keys:
        raise DataError(
            f"{opened.folder}: no record has the id or the text {wanted[:80]!r}; ids look like {_some_id(opened)!r}; "
            "of dropped records only the changed places can be searched"
        )
    return [life_of(opened, key, decoder) for key in keys]


def _some_id(shards: Shards) -> str:
    for batch in stream_rows(shards, LINEAGE_TABLE, ["id"]):
        if len(batch):
            return str(batch.column("id")[0].as_py())
    return "faq.csv#0"


def _by_id(shards: Shards, wanted: str) -> list[Key]:
    """Return the keys whose id, or whose `source id`, is the wanted text."""
    pairs: list[tuple[str, str, str | None]] = [("id", wanted, None)]
    source, space, row_id = wanted.partition(" ")
    if space:
        pairs.append(("id", row_id, source))
    found: dict[Key, None] = {}
    for table in (LINEAGE_TABLE, LEDGER_TABLE):
        for name, value, only in pairs:
            for row in read_rows(shards, table, [(name, "=", value)]):
                if only is None or row["source"] == only:
                    found[(row["source"], row["id"])] = None
    return list(found)


def _by_text(shards: Shards, wanted: str, decoder: Decoder) -> Iterator[Key]:
    """Yield the keys of records in which a text occurs, each once: quarantine and ledger first, then the shards."""
    seen: set[Key] = set()
    for key in (*_in_tables(shards, wanted), *_in_shards(shards, wanted, decoder)):
        if key not in seen:
            seen.add(key)
            yield key
            if len(seen) == MAX_LIVES:
                return


def _in_tables(shards: Shards, wanted: str) -> Iterator[Key]:
    for batch in stream_rows(shards, QUARANTINE_TABLE, ["source", "id", "bytes"]):
        texts = pa.array([value.decode("utf-8", "replace") for value in batch.column("bytes").to_pylist()], pa.string())
        yield from _matching(batch, pc.match_substring(texts, wanted))
    for batch in stream_rows(shards, LEDGER_TABLE, ["source", "id", "evidence", "before", "after"]):
        for column in ("before", "after", "evidence"):
            yield from _matching(batch, pc.match_substring(batch.column(column), wanted))


def _matching(batch: Any, mask: Any) -> Iterator[Key]:
    chosen = batch.select(["source", "id"]).filter(mask)
    yield from zip(chosen.column(0).to_pylist(), chosen.column(1).to_pylist(), strict=True)


def _in_shards(shards: Shards, wanted: str, decoder: Decoder) -> Iterator[Key]:
    for name, split in shards.splits.items():
        for row in range(split.num_rows):
            columns = split.row(row)
            if wanted not in decoder.text(columns["input_ids"]):
                continue
            first = 0
            for origin in read_rows(shards, LINEAGE_TABLE, [("split", "=", name), ("row", "=", row)]):
                if wanted in decoder.text(columns["input_ids"][first : first + origin["length"]]):
                    yield origin["source"], origin["id"]
                first += origin["length"]


def life_of(shards: Shards, key: Key, decoder: Decoder) -> Life:
    """Return the life of the record with a key."""
    mine = [("source", "=", key[0]), ("id", "=", key[1])]
    ledger = read_rows(shards, LEDGER_TABLE, mine)
    quarantine = read_rows(shards, QUARANTINE_TABLE, mine)
    lineage = read_rows(shards, LINEAGE_TABLE, mine)
    placements = [Placement(**{name: row[name] for name in Placement._fields}) for row in lineage]
    copies = read_rows(shards, LEDGER_TABLE, [("step", "=", "dedup"), ("evidence", "=", " ".join(key))])
    return Life(
        source=key[0],
        id=key[1],
        file=_file_of(shards, key),
        outcome=_outcome(ledger, placements),
        events=[Event(**{name: row[name] for name in Event._fields}) for row in ledger],
        raw=quarantine[0]["bytes"].decode("utf-8", "replace") if quarantine else "",
        placements=placements,
        text="".join(decoder.text(_tokens(shards, place)) for place in placements if place.copy == 0),
        duplicates=[f"{row['source']} {row['id']}" for row in copies],
    )


def _file_of(shards: Shards, key: Key) -> str:
    """Return the file that the record was read from, with its checksum."""
    for file in shards.manifest["sources"].get(key[0], {}).get("files", []):
        if key[1].startswith(f"{file['name']}#"):
            return f"{file['name']} (xxh3 {file['xxh3']})"
    return ""


def _outcome(ledger: list[dict[str, Any]], placements: list[Placement]) -> str:
    if placements:
        return "trained" if placements[0].split == "train" else placements[0].split
    actions = {row["action"] for row in ledger}
    return "quarantined" if "quarantine" in actions else "dropped"


def _tokens(shards: Shards, place: Placement) -> Any:
    columns = shards.splits[place.split].row(place.row)
    lengths = columns["seq_lengths"] if "seq_lengths" in columns else [len(columns["input_ids"])]
    first = int(sum(lengths[: place.segment]))
    return columns["input_ids"][first : first + place.length]
