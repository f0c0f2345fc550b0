"""Prepare, the first map: read the records of one input part, clean them, and digest them for the decisions that follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import xxhash

from sftdata import progress, registry, storage
from sftdata.cleaning import BoundStep, Cleaned, SpanTable, bind, clean, write_back
from sftdata.entries import DOCUMENTS_FILE, KEYS_FILE, LEDGER_FILE, QUARANTINE_FILE
from sftdata.environment import one_by_one
from sftdata.errors import ConservationError, DataError, SftdataError
from sftdata.ledger import Entry
from sftdata.reading import Reading
from sftdata.record_json import canonical
from sftdata.records import Bad, Example, InvalidRecord, Record, Span, Turn
from sftdata.removing import REASON, STEP
from sftdata.schemas import DOCUMENT, KEYS, LEDGER, QUARANTINE, QUARANTINE_BYTES
from sftdata.sources import InputFile, Piece
from sftdata.tables import TableWriter, stream_writer

BATCH_RECORDS = 1000
BATCH_CHARACTERS = 8 << 20
"""Records are cleaned together up to either number, so that large records do not add up in memory."""


@dataclass
class _Part:
    """What one part's task holds open while it runs."""

    source: str
    file: InputFile
    steps: list[BoundStep]
    format: tuple[str, dict[str, Any]] | None
    keep_all: bool
    """Keep the records that the formatter cannot read, uncleaned."""
    allow_code: bool
    documents: TableWriter
    keys: TableWriter
    ledger: TableWriter
    quarantine: TableWriter
    counts: Counter[str]
    without: frozenset[str]
    """Keys of the records to leave out."""
    removed: list[str]
    """Ids of those that were left out."""
    first_shape: str = ""
    """Of the part's first record, without what it has besides (`+tools`)."""


def prepare_part(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Prepare one input part into `folder`; return its counts and the digests of what later stages read.

    Writes DOCUMENT, KEYS, LEDGER and QUARANTINE streams. Raises DataError for a file that cannot be read at all.
    """
    file = InputFile(Path(spec["path"]), spec["file"], Piece(*spec["piece"]) if spec["piece"] else None, spec["member"])
    with (
        stream_writer(folder / DOCUMENTS_FILE, DOCUMENT) as documents,
        stream_writer(folder / KEYS_FILE, KEYS) as keys,
        stream_writer(folder / LEDGER_FILE, LEDGER) as ledger,
        stream_writer(folder / QUARANTINE_FILE, QUARANTINE) as quarantine,
    ):
        part = _Part(
            source=spec["source"],
            file=file,
            steps=bind(spec["clean"], allow_code=spec["allow_code"]),
            format=spec["format"],
            keep_all=spec["keep_all"],
            allow_code=spec["allow_code"],
            documents=documents,
            keys=keys,
            ledger=ledger,
            quarantine=quarantine,
            counts=Counter(),
            without=frozenset(spec["without"]),
            removed=[],
        )
        for batch in _batches(part, spec):
            _prepare_batch(part, batch, spec["ingest"][0])
            progress.tick(len(batch))
    _check_conservation(part)
    layout = {"layout": part.file.layout} if part.file.layout else {}
    removed = {"removed": part.removed} if part.removed else {}
    digests = {name: storage.file_digest(folder / name) for name in (DOCUMENTS_FILE, KEYS_FILE)}
    return {"counts": dict(sorted(part.counts.items())), "digests": digests, **layout, **removed}


def _batches(part: _Part, spec: dict[str, Any]) -> Iterator[list[Record | Bad]]:
    name, options = spec["ingest"]
    step = registry.find_step("ingestor", name, allow_code=part.allow_code)
    reading = Reading(step, part.file, options)
    records = reading.records()
    most = BATCH_RECORDS
    if spec.get("left_out") is not None:
        first = part.file.piece.first_record if part.file.piece else 0
        records, most = one_by_one(records, spec["left_out"], first), 1
    batch: list[Record | Bad] = []
    size = 0
    for record in islice(records, spec["limit"]):
        batch.append(record)
        size += len(record.raw) if isinstance(record, Bad) else _text_size(record.fields)
        if len(batch) == most or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
    part.file = reading.file


def _text_size(value: Any) -> int:
    """Return the number of characters of all texts in a JSON value."""
    if type(value) is dict:
        value = value.values()
    elif type(value) is not list:
        return len(value) if type(value) is str else 1
    return sum([len(item) if type(item) is str else _text_size(item) for item in value])


def _prepare_batch(part: _Part, batch: list[Record | Bad], ingestor: str) -> None:
    part.counts["records"] += len(batch)
    if part.without:
        batch = _leave_out(part, batch)
    records: list[Record] = []
    for record in batch:
        if isinstance(record, Bad):
            _quarantine(part, record.key, ingestor, record.reason, (record.place, record.raw))
        else:
            records.append(record)
    if part.format is None:
        _write_plain(part, records)
        return
    kept, examples = _format(part, records)
    spans = SpanTable()
    for row, example in enumerate(examples):
        spans.add(row, example, whole=part.keep_all)
    done = clean(spans, part.steps) if part.steps else Cleaned()
    _write_ledger(part, kept, done)
    _write_documents(part, kept, spans, done)


def _leave_out(part: _Part, batch: list[Record | Bad]) -> list[Record | Bad]:
    """Leave out the records that were asked to be, before anything is made of their text."""
    for record in batch:
        if record.key in part.without:
            row_id = f"{part.file.name}#{record.key}"
            part.removed.append(row_id)
            part.counts["dropped"] += 1
            part.counts[f"drop:{STEP}:{REASON}"] += 1
            part.ledger.append(Entry(part.source, row_id, -1, "prepare", STEP, "", "drop", REASON))
    return [record for record in batch if record.key not in part.without]


def _format(part: _Part, records: list[Record]) -> tuple[list[Record], list[Example]]:
    """Return the records that the formatter can read, with their examples; the others go to quarantine."""
    assert part.format is not None
    name, options = part.format
    function = registry.find_step("formatter", name, allow_code=part.allow_code).function
    kept: list[Record] = []
    examples: list[Example] = []
    for record in records:
        try:
            example = function(record.fields, **options)
        except InvalidRecord as error:
            if part.keep_all:
                kept.append(record)
                examples.append(_unread(record))
                continue
            place = f"record {record.key}: {error.detail}"
            _quarantine(part, record.key, name, error.reason, (place, canonical(record.fields).encode("utf-8", "replace")))
            continue
        except (SftdataError, MemoryError):
            raise
        except Exception as error:
            where = f"{part.file.name}#{record.key}: formatter {name!r}"
            raise SftdataError(f"{where} raised {type(error).__name__}: {error}") from error
        _note_shape(part, record.key, name, example.shape)
        kept.append(record)
        examples.append(example)
    return kept, examples


def _note_shape(part: _Part, key: str, step: str, shape: str) -> None:
    """Count a record's shape; in a file of mixed shapes, the ledger names the records that are not like the first."""
    part.counts[f"shape:{shape}"] += 1
    kind = shape.partition("+")[0]
    part.first_shape = part.first_shape or kind
    if kind != part.first_shape:
        part.counts[f"flag:{step}:shape"] += 1
        part.ledger.append(Entry(part.source, f"{part.file.name}#{key}", -1, "prepare", step, "", "flag", "shape", shape))


def _unread(record: Record) -> Example:
    """Return an example that holds a record as one text, which no cleaner sees."""
    return Example((Turn("record", (Span((), canonical(record.fields)),)),), False, "unread")


def _quarantine(part: _Part, key: str, step: str, reason: str, found: tuple[str, bytes]) -> None:
    """Put a record aside, with the place and the bytes that were found there."""
    place, raw = found
    row_id = f"{part.file.name}#{key}"
    part.counts["quarantined"] += 1
    part.counts[f"quarantine:{reason}"] += 1
    where = f"{Path(part.file.name).name}: {place}"
    part.quarantine.append((part.source, row_id, reason, where, raw[:QUARANTINE_BYTES]))
    part.ledger.append(Entry(part.source, row_id, -1, "prepare", step, "", "quarantine", reason, where))


def _write_plain(part: _Part, records: list[Record]) -> None:
    """Write the records of an ingest without a format: nothing to clean, nothing to digest."""
    part.counts["kept"] += len(records)
    ids = [f"{part.file.name}#{record.key}" for record in records]
    texts = [canonical(record.fields) for record in records]
    part.documents.extend_columns([[part.source] * len(ids), ids, texts, [None] * len(ids)])


def _write_ledger(part: _Part, records: list[Record], done: Cleaned) -> None:
    for row, turn, step, rule, action, reason, evidence, before, after in done.entries:
        row_id = f"{part.file.name}#{records[row].key}"
        part.counts[f"{action}:{step}:{reason}"] += 1
        part.ledger.append(
            Entry(part.source, row_id, turn, "prepare", step, rule, action, reason, evidence, before, after)
        )


def _write_documents(part: _Part, records: list[Record], spans: SpanTable, done: Cleaned) -> None:
    kept = [row for row in range(len(records)) if row not in done.dropped]
    part.counts["dropped"] += len(records) - len(kept)
    part.counts["kept"] += len(kept)
    for row, edits in done.edited.items():
        write_back(records[row].fields, edits)
    ids = [f"{part.file.name}#{records[row].key}" for row in kept]
    texts = [canonical(records[row].fields) for row in kept]
    marks = [orjson.dumps(done.marks[row]).decode() if row in done.marks else None for row in kept]
    part.documents.extend_columns([[part.source] * len(ids), ids, texts, marks])
    part.keys.extend_columns(_digests(spans, dict(zip(kept, texts, strict=True))))


def _digests(spans: SpanTable, kept: dict[int, str]) -> list[list[Any]]:
    """Return the KEYS columns of the kept rows: a digest of each row's (role, text) list, and one of each text.

    `kept` holds the JSON text of each row, which stands for a row without texts.
    """
    pieces: dict[int, list[bytes]] = {row: [] for row in kept}
    for row, role, text in zip(spans.rows, spans.roles, spans.texts, strict=True):
        pieces[row] += (role.encode(), text.encode("utf-8", "surrogatepass"))
    for row in spans.structures.keys() & pieces.keys():
        tools, fields = spans.structures[row]
        pieces[row] += (b"structure", canonical([tools, list(fields.values())]).encode("utf-8", "surrogatepass"))
    digests, texts = [], []
    for row, parts in pieces.items():
        if not parts:
            parts = [b"record", kept[row].encode("utf-8", "surrogatepass")]
        lengths = b"".join([b"%d\x00" % len(part) for part in parts])
        digests.append(xxhash.xxh3_128_digest(b"".join((lengths, *parts))))
        texts.append([xxhash.xxh3_64_intdigest(part) for part in parts[1::2]])
    return [digests, texts]


def _check_conservation(part: _Part) -> None:
    counts = part.counts
    out = counts["kept"] + counts["dropped"] + counts["quarantined"]
    if counts["records"] != out or part.documents.num_rows != counts["kept"]:
        raise ConservationError(f"{part.file.path}: {counts['records']} records in, {out} accounted for; nothing is published")
    if part.format is not None and part.keys.num_rows != counts["kept"]:
        raise DataError(f"{part.file.path}: {part.keys.num_rows} keys for {counts['kept']} documents")
