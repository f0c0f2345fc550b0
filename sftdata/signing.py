"""Sign, the map before the first decision: digests and MinHash signatures of what each step of deduplication compares.

Only files come out: the texts are not looked at again. Another threshold of the same bands, another survivor rule or another
list of allowed texts needs no new signatures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import xxhash

from sftdata import progress
from sftdata.dedup.minhash import Bands, band_keys, signatures
from sftdata.entries import DOCUMENTS_FILE, signed_name
from sftdata.formatting import Documents, format_documents, open_format, read_documents
from sftdata.record_json import canonical, parse
from sftdata.records import Example, Turn
from sftdata.shards import list_column
from sftdata.shingling import shingle_sets
from sftdata.tables import TableWriter, read_batches, stream_writer

RESPONSE_ROLES = ("assistant", "target", "text")
"""Roles that a model learns to say; all others are the prompt."""

UNCOMPARED_ROLES = ("system",)
"""Roles that MinHash leaves out: one long system prompt would make all records alike that stand under it."""

SIGNED = [
    ("row", pa.int32()),  # the document's number in its part
    ("turn", pa.int32()),  # -1: the whole row
    ("paths", pa.string()),  # of a turn: JSON list of the paths of its texts
    ("digest", pa.binary(16)),
    ("text_digests", pa.list_(pa.uint64())),  # xxh3_64 of each text
    ("score", pa.float64()),
]


class _Item(NamedTuple):
    """What one item compares: (role, text) pairs, and where they stand."""

    row: int
    turn: int
    paths: str | None
    pieces: list[tuple[str, str]]
    texts: list[str]
    """What an allow list may name."""
    digest: bytes | None
    """Of the whole record, where that is compared."""

    @property
    def num_chars(self) -> int:
        """Characters of what is compared."""
        return sum(len(text) for _, text in self.pieces)


def signed_schema(setting: dict[str, Any]) -> pa.Schema:
    """Return the columns of the signatures under a step's settings."""
    fields = list(SIGNED)
    if setting["method"] == "minhash":
        fields.append(("shingles", pa.list_(pa.uint32())))
        fields += [(f"band_{number}", pa.uint32()) for number in range(Bands(*setting["bands"]).number)]
    return pa.schema(fields)


def sign_part(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Sign the documents of one prepared part for every step that needs it.

    `spec`: `documents` (folder), `format`, `allow_code`, `settings` (of each kind of signature: `method`, `over`,
    `min_chars`, `score`, and for MinHash `ngram` and `bands`). Writes one file a setting.
    """
    name, options = spec["format"]
    form = open_format(name, options, allow_code=spec["allow_code"])
    source = Path(spec["documents"])
    num_rows = sum(map(len, read_batches(source / DOCUMENTS_FILE)))
    with ExitStack() as stack:
        writers = [
            stack.enter_context(stream_writer(folder / signed_name(number), signed_schema(setting)))
            for number, setting in enumerate(spec["settings"])
        ]
        for documents in read_documents(source, np.ones(num_rows, dtype=bool)):
            examples, refused = format_documents(form, documents)
            if refused:  # those that only a published script reads: they have no texts to compare
                documents = documents.take(np.delete(np.arange(len(documents.numbers)), list(refused)))
            for setting, writer in zip(spec["settings"], writers, strict=True):
                _sign(setting, documents, examples, writer)
            progress.tick(len(documents.numbers))
    return {"items": [writer.num_rows for writer in writers]}


def _sign(setting: dict[str, Any], documents: Documents, examples: Sequence[Example], writer: TableWriter) -> None:
    found = _turns if setting["over"] == "turn" else _records
    items = [item for item in found(setting, documents, examples) if item.num_chars >= setting["min_chars"]]
    columns: list[Any] = [
        pa.array([item.row for item in items], pa.int32()),
        pa.array([item.turn for item in items], pa.int32()),
        pa.array([item.paths for item in items], pa.string()),
        pa.array([item.digest or _digest(item.pieces) for item in items], pa.binary(16)),
        pa.array([list(map(_text_digest, item.texts)) for item in items], pa.list_(pa.uint64())),
        pa.array(_scores(setting["score"], documents, items), pa.float64()),
    ]
    if setting["method"] == "minhash":
        columns += _minhash_columns(setting, items)
    if items:
        writer.extend_columns(columns)


def _turns(setting: dict[str, Any], documents: Documents, examples: Sequence[Example]) -> Iterator[_Item]:
    """Yield the turns that are answers and have texts of the record's own."""
    for row, example in zip(documents.numbers.tolist(), examples, strict=True):
        for number, turn in enumerate(example.turns):
            spans = [*([turn.reasoning] if turn.reasoning else []), *turn.spans]
            paths = [list(span.path) for span in spans if span.path]
            if turn.role in RESPONSE_ROLES and paths:
                yield _Item(row, number, orjson.dumps(paths).decode(), list(_pieces(turn)), [turn.content], None)


def _records(setting: dict[str, Any], documents: Documents, examples: Sequence[Example]) -> Iterator[_Item]:
    """Yield the records, or their prompts or responses, that have any text."""
    over, is_exact = setting["over"], setting["method"] == "exact"
    digests = documents.digests.to_pylist() if over == "document" else [None] * len(examples)
    for row, example, digest in zip(documents.numbers.tolist(), examples, digests, strict=True):
        turns = [turn for turn in example.turns if over == "document" or (turn.role in RESPONSE_ROLES) == (over == "response")]
        compared = turns if is_exact else [turn for turn in turns if turn.role not in UNCOMPARED_ROLES] or turns
        pieces = [piece for turn in compared for piece in _pieces(turn)]
        if is_exact and example.tools and over == "prompt":
            pieces.append(("tools", canonical(example.tools)))
        if pieces or digest:
            yield _Item(row, -1, None, pieces, [span.text for turn in turns for span in turn.spans], digest)


def _pieces(turn: Turn) -> Iterator[tuple[str, str]]:
    """Yield what a turn says: its reasoning, its content and its calls, each with the role."""
    if turn.reasoning is not None:
        yield turn.role, turn.reasoning.text
    if turn.spans:
        yield turn.role, turn.content
    if turn.fields:
        yield turn.role, canonical(turn.fields)


def _digest(pieces: Sequence[tuple[str, str]]) -> bytes:
    parts = [text.encode("utf-8", "surrogatepass") for piece in pieces for text in piece]
    return xxhash.xxh3_128_digest(b"".join([b"%d\x00" % len(part) for part in parts] + parts))


def _text_digest(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))


def _scores(score: str | None, documents: Documents, items: Sequence[_Item]) -> list[float | None]:
    """Return what ranks the items: the length of what is compared, or a field of the record that holds a number."""
    if score is None:
        return [None] * len(items)
    if score == "length":
        return [float(item.num_chars) for item in items]
    values = {
        row: _number(parse(record).get(score))
        for row, record in zip(documents.numbers.tolist(), documents.records.to_pylist(), strict=True)
    }
    return [values[item.row] for item in items]


def _number(value: Any) -> float | None:
    """Return a value as a finite number, None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _minhash_columns(setting: dict[str, Any], items: Sequence[_Item]) -> list[Any]:
    pieces = [piece for item in items for piece in item.pieces]
    sets = shingle_sets(
        [text for _, text in pieces],
        np.repeat(np.arange(len(items)), [len(item.pieces) for item in items]),
        np.array([_text_digest(role) for role, _ in pieces], dtype=np.uint64),
        np.array([role in RESPONSE_ROLES for role, _ in pieces], dtype=bool),
        num_sets=len(items),
        size=setting["ngram"],
    )
    bands = Bands(*setting["bands"])
    keys = band_keys(signatures(sets, num_permutations=bands.number * bands.rows), bands)
    return [list_column(sets.values, np.diff(sets.offsets), pa.uint32()), *(pa.array(key) for key in keys)]
