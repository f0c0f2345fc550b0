"""Tokenize, the second map: format, render and encode the surviving documents of one part, untruncated, with proven masks.

Nothing here knows about length limits, order or packing: those are decided on integers in Plan, so that changing them needs no
new tokenizing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sftdata import control_tokens, masking, progress
from sftdata.control_tokens import Found
from sftdata.entries import LEDGER_FILE, QUARANTINE_FILE, TOKENIZED_FILE, read_decisions, read_marks
from sftdata.environment import rows_one_by_one
from sftdata.errors import ConservationError, DataError
from sftdata.formatting import Documents, Format, format_documents, open_format, read_documents
from sftdata.ledger import Entry, around
from sftdata.mask_lint import MaskLint
from sftdata.records import Example, InvalidRecord
from sftdata.rendering import RenderedBatch, Renderer, open_template
from sftdata.schemas import LEDGER, QUARANTINE, QUARANTINE_BYTES, TOKENIZED
from sftdata.shards import list_column
from sftdata.tables import TableWriter, stream_writer
from sftdata.templates.jinja import TURN_ENDS
from sftdata.templates.render import scope_of
from sftdata.tokenizers.encoder import Batch, Encoded, Encoder, concatenate, open_encoder
from sftdata.tokenizers.engine import EnginesDiffer, text_number
from sftdata.tokenizing_compat import Writers, tokenize_as_published


class _Rows(NamedTuple):
    """The rows of a batch."""

    documents: Documents
    examples: list[Example]
    rendered: RenderedBatch
    batch: Batch
    encoded: Encoded


@dataclass
class _Part:
    """What one part's task holds open while it runs."""

    spec: dict[str, Any]
    encoder: Encoder
    renderer: Renderer
    format: Format
    stops: dict[str, int]
    """Text → id of the tokens that end a turn."""
    markers: re.Pattern[str] | None
    allowed: dict[str, frozenset[str]]
    """The control tokens that content of a role may hold."""
    tokenized: TableWriter
    ledger: TableWriter
    quarantine: TableWriter
    lint: MaskLint
    counts: Counter[str] = field(default_factory=lambda: Counter(rows=0, kept=0, dropped=0, quarantined=0))


def tokenize_part(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Tokenize the kept documents of one prepared part into `folder` and return its counts.

    `spec`: `source`, `documents` (folder), `decisions` (folder), `part`, `tokenizer` (folder), `template`, `format`,
    `category`, `tokenize` (options), `engine` (`auto`, or `tokenizers` alone), `allow_code`. Where the fast engine gave other
    ids, the returned `difference` says for which text. Raises DataError where `control_tokens` is error and content holds one;
    TokenizerError where the tokenizer lacks what the format needs.
    """
    try:
        return {**_tokenize(folder, spec, spec["engine"]), "difference": None}
    except EnginesDiffer as error:
        return {**_tokenize(folder, spec, "tokenizers"), "difference": f"{spec['source']} part {spec['part']}: {error}"}


def _tokenize(folder: Path, spec: dict[str, Any], engine: str) -> dict[str, Any]:
    with (
        stream_writer(folder / TOKENIZED_FILE, TOKENIZED) as tokenized,
        stream_writer(folder / LEDGER_FILE, LEDGER) as ledger,
        stream_writer(folder / QUARANTINE_FILE, QUARANTINE) as quarantine,
    ):
        if spec["tokenize"]["compat"]:
            return _published(spec, Writers(tokenized, ledger, quarantine))
        part = _open_part(spec, engine, (tokenized, ledger, quarantine))
        keep, _ = read_decisions(Path(spec["decisions"]), spec["part"])
        marks = read_marks(Path(spec["decisions"]), spec["part"])
        chosen = read_documents(Path(spec["documents"]), keep, marks)
        for documents, lost in rows_one_by_one(chosen, spec.get("left_out")):
            _tokenize_batch(part, documents, lost)
            progress.tick(len(documents.numbers))
    _check_conservation(spec, part.counts, tokenized)
    return {"counts": dict(sorted(part.counts.items())), "engine": part.encoder.engine, **part.lint.summary()}


def _published(spec: dict[str, Any], writers: Writers) -> dict[str, Any]:
    counts, lint = tokenize_as_published(spec, writers)
    _check_conservation(spec, counts, writers.tokenized)
    return {"counts": dict(sorted(counts.items())), "engine": "tokenizers", **lint.summary()}


def _check_conservation(spec: dict[str, Any], counts: Counter[str], tokenized: TableWriter) -> None:
    if counts["rows"] != counts["kept"] + counts["dropped"] + counts["quarantined"] or tokenized.num_rows != counts["kept"]:
        raise ConservationError(f"{spec['source']} part {spec['part']}: rows lost in tokenize; nothing is published")


def _open_part(spec: dict[str, Any], engine: str, writers: tuple[TableWriter, TableWriter, TableWriter]) -> _Part:
    folder = Path(spec["tokenizer"])
    encoder = open_encoder(folder, engine=engine)
    files = encoder.files
    options = spec["tokenize"]
    name, format_options = spec["format"]
    template = open_template(spec["template"], files)
    bos, eos = files.special("bos_token"), files.special("eos_token")
    scope = scope_of(options)
    ends = {*TURN_ENDS, eos, template.stop_token if template else None}
    guarded = options["control_tokens"] != "allow"
    stops = {token: number for token, number in encoder.control.ids.items() if token in ends}
    tokenized, ledger, quarantine = writers
    return _Part(
        spec=spec,
        encoder=encoder,
        renderer=Renderer(spec["source"], template, scope, bos_token=bos, eos_token=eos),
        format=open_format(name, format_options, allow_code=spec["allow_code"]),
        stops=stops,
        markers=control_tokens.plain_markers(template, encoder) if guarded else None,
        allowed=control_tokens.allowed_control(options["control_tokens_allowed"], files),
        tokenized=tokenized,
        ledger=ledger,
        quarantine=quarantine,
        lint=MaskLint(stops.values() if scope.train_on_eos else (), encoder.control.ids.get(bos or ""), scope.train_on_inputs),
    )


def _tokenize_batch(part: _Part, documents: Documents, lost: dict[int, InvalidRecord]) -> None:
    part.counts["rows"] += len(documents.numbers)
    documents = _without(part, documents, lost, "tokenize")
    examples, refused = format_documents(part.format, documents)
    documents = _without(part, documents, refused, part.spec["format"][0])
    rendered, refused = part.renderer.render_batch(examples)
    examples = [example for number, example in enumerate(examples) if number not in refused]
    documents = _without(part, documents, refused, "template")
    if not examples:
        return
    batch = concatenate(rendered.texts)
    encoded = part.encoder.encode(batch, text_number(part.spec["part"], part.counts["kept"]))
    rows = _Rows(documents, examples, rendered, batch, encoded)
    dropped: set[int] = set()
    unproven: dict[int, InvalidRecord] = {}
    if part.spec["tokenize"]["control_tokens"] != "allow":
        rows, dropped, unproven = _guard(part, rows)
    trained = masking.to_bytes(batch, rendered.trained)
    part.counts["straddling_tokens"] += masking.num_straddling(rows.encoded, trained)
    for row in _unstopped(part, rows, trained) - dropped:
        unproven.setdefault(row, InvalidRecord("mask_unproven", "a trained turn does not end in the token that stops it"))
    _quarantine(part, documents, unproven, "template")
    kept = np.ones(len(examples), dtype=bool)
    kept[[*dropped, *unproven]] = False
    _write(part, rows, masking.tokens_inside(rows.encoded, trained), kept)


def _without(part: _Part, documents: Documents, refused: dict[int, InvalidRecord], step: str) -> Documents:
    """Put the refused documents in quarantine; returns the others."""
    if not refused:
        return documents
    _quarantine(part, documents, refused, step)
    return documents.take(np.delete(np.arange(len(documents.numbers)), list(refused)))


def _quarantine(part: _Part, documents: Documents, refused: dict[int, InvalidRecord], step: str) -> None:
    source = part.spec["source"]
    for number, error in sorted(refused.items()):
        row_id, record = documents.ids[number].as_py(), documents.records[number].as_py()
        part.counts["quarantined"] += 1
        part.counts[f"quarantine:{error.reason}"] += 1
        part.quarantine.append((source, row_id, error.reason, error.detail, record.encode()[:QUARANTINE_BYTES]))
        part.ledger.append(Entry(source, row_id, -1, "tokenize", step, "", "quarantine", error.reason, error.detail))


def _guard(part: _Part, rows: _Rows) -> tuple[_Rows, set[int], dict[int, InvalidRecord]]:
    """Act on the control tokens in content; returns the rows, which of them are dropped, and which cannot be proven."""
    _, examples, rendered, batch, encoded = rows
    policy = part.spec["tokenize"]["control_tokens"]

    def may_use(row: int, turn: int) -> frozenset[str]:
        return part.allowed.get(examples[row].turns[turn].role, frozenset())

    forged = control_tokens.find_forged(part.encoder, rendered, batch, encoded, may_use)
    marked = control_tokens.find_markers(part.markers, rendered) if part.markers else {}
    part.counts["control_rows"] += len(forged)
    part.counts["control_tokens"] += sum(map(len, forged.values()))
    part.counts["marker_rows"] += len(marked)
    part.counts["markers"] += sum(map(len, marked.values()))
    for row in sorted(forged):
        _record(part, rows, row, forged[row], "control_token")
    if policy == "escape":
        escaped, unproven = control_tokens.escape(part.encoder, rendered, batch, encoded, sorted(forged), may_use)
        error = InvalidRecord("mask_unproven", "the control tokens in the content cannot be told from those of the template")
        return rows._replace(encoded=escaped), set(), dict.fromkeys(unproven, error)
    for row in sorted(marked.keys() - forged.keys()):
        _record(part, rows, row, marked[row], "plain_marker")
    return rows, {*forged, *marked}, {}


def _record(part: _Part, rows: _Rows, row: int, found: Sequence[Found], kind: str) -> None:
    """Write a row whose content holds control tokens or markers into the ledger. Raises DataError under the policy `error`."""
    policy = part.spec["tokenize"]["control_tokens"]
    source, row_id = part.spec["source"], rows.documents.ids[row].as_py()
    evidence = ", ".join(dict.fromkeys(token for _, token in found))
    if policy == "error":
        what = "the control token" if kind == "control_token" else "the template's marker"
        cure = "tokenize.control_tokens: escape keeps it as text"
        raise DataError(f"{source} {row_id}: the content of turn {found[0].turn} holds {what} {evidence}; {cure}")
    action, reason = ("drop", kind) if policy == "drop" else ("flag", f"{kind}_escaped")
    part.counts["dropped"] += policy == "drop"
    part.counts[f"{action}:control_tokens:{reason}"] += 1
    turn, token = found[0]
    before = around(rows.examples[row].turns[turn].content, token)
    part.ledger.append(Entry(source, row_id, turn, "tokenize", "control_tokens", "", action, reason, evidence, before))


def _unstopped(part: _Part, rows: _Rows, trained: masking.ByteSpans) -> set[int]:
    """Return the rows in which a trained span ends in the text of a stop token, but not in that token."""
    if not part.renderer.scope.train_on_eos or not len(trained.row):
        return set()
    last = masking.last_tokens(rows.encoded, trained)
    wrong = np.zeros(len(last), dtype=bool)
    for text, number in part.stops.items():
        wrong |= masking.ends_with(rows.batch, trained, text.encode()) & (last != number)
    return set(trained.row[wrong].tolist())


def _write(part: _Part, rows: _Rows, trained: masking.TokenRuns, kept: npt.NDArray[np.bool_]) -> None:
    """Append the kept rows of a batch to TOKENIZED."""
    documents, examples, rendered, batch, encoded = rows
    num_rows = len(examples)
    run_pairs, num_run_values = masking.joined_pairs(trained, num_rows)
    num_trained = np.bincount(trained.row, weights=np.maximum(trained.length, 0), minlength=num_rows).astype(np.int32)
    ends = rendered.turn_ends
    turn_ends = masking.num_tokens_before(encoded, batch, ends.row, ends.ends)
    num_turns = np.bincount(ends.row, minlength=num_rows)
    content = masking.tokens_inside(encoded, masking.to_bytes(batch, rendered.content))
    content_pairs, num_content_values = masking.flat_pairs(content, num_rows)
    part.lint.add(encoded, trained, turn_ends, num_turns, kept)
    weight_spans = masking.to_bytes(batch, rendered.weights)
    weight_pairs, weight_values, num_weights = masking.weight_pairs(encoded, weight_spans, num_rows)
    columns = [
        list_column(encoded.ids, np.diff(encoded.row_offsets), pa.int32()),
        list_column(run_pairs, num_run_values, pa.int32()),
        list_column(weight_pairs, 2 * num_weights, pa.int32()),
        list_column(weight_values, num_weights, pa.float32()),
        list_column(turn_ends, num_turns, pa.int32()),
        list_column(content_pairs, num_content_values, pa.int32()),
        pa.array([example.chat for example in examples], pa.bool_()),
        pa.array(num_trained),
    ]
    if not kept.all():
        chosen = np.flatnonzero(kept)
        columns = [column.take(pa.array(chosen)) for column in columns]
        documents = documents.take(chosen)
    num_kept = len(documents.numbers)
    part.counts["kept"] += num_kept
    part.counts["tokens"] += int(np.diff(encoded.row_offsets)[kept].sum())
    part.counts["trained_tokens"] += int(num_trained[kept].sum())
    part.counts["turns"] += int(num_turns[kept].sum())
    part.counts["weighted_rows"] += int(np.count_nonzero(num_weights[kept]))
    part.tokenized.extend_columns(
        [
            pa.array(documents.numbers, pa.int32()),
            pa.repeat(part.spec["source"], num_kept),
            documents.ids,
            pa.repeat(part.spec["category"], num_kept),
            *columns,
            documents.digests,
        ]
    )
