"""Tokenize, the second map: format, render and encode the surviving documents of one part, untruncated, with proven masks.

Nothing here knows about length limits, order or packing: those are decided on integers in Plan, so that changing them needs no
new tokenizing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from sftdata import masking, progress, registry
from sftdata.errors import ConservationError, DataError, TokenizerError
from sftdata.ledger import Entry, around
from sftdata.preparing import DOCUMENTS_FILE, KEYS_FILE, LEDGER_FILE, QUARANTINE_FILE
from sftdata.records import Example, InvalidRecord, Turn
from sftdata.resolving import read_decisions
from sftdata.schemas import LEDGER, QUARANTINE, QUARANTINE_BYTES, TOKENIZED
from sftdata.shards import list_column
from sftdata.tables import TableWriter, read_batches, stream_writer
from sftdata.templates import load_template
from sftdata.templates.render import Rendered, Template, TrainScope, render_plain
from sftdata.tokenizers import files as tokenizer_files
from sftdata.tokenizers.encoder import Batch, Encoded, Encoder, concatenate, splice

TOKENIZED_FILE = "tokenized.arrow"
BATCH_ROWS = 2000
REASONING_AND_TOOL_TOKENS = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>",
)  # fmt: skip
"""Tokens that an answer may itself contain, where the tokenizer's own template writes them (Qwen3, GLM, DeepSeek)."""


class _Row(NamedTuple):
    """One document on its way to tokens."""

    number: int
    id: str
    example: Example
    rendered: Rendered
    digest: bytes


@dataclass
class _Part:
    """What one part's task holds open while it runs."""

    spec: dict[str, Any]
    encoder: Encoder
    template: Template | None
    bos: str | None
    eos: str | None
    stop_ids: frozenset[int]
    scope: TrainScope
    allowed: dict[str, frozenset[str]]
    format: Callable[[dict[str, Any]], Example]
    tokenized: TableWriter
    ledger: TableWriter
    quarantine: TableWriter
    counts: Counter[str]


def tokenize_part(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Tokenize the kept documents of one prepared part into `folder` and return its counts.

    `spec`: `source`, `documents` (folder), `decisions` (folder), `part`, `tokenizer` (folder), `template`, `format`, `category`,
    `tokenize` (options), `allow_code`. Raises DataError where `control_tokens` is error and content holds one; TokenizerError
    where the tokenizer lacks what the format needs.
    """
    with (
        stream_writer(folder / TOKENIZED_FILE, TOKENIZED) as tokenized,
        stream_writer(folder / LEDGER_FILE, LEDGER) as ledger,
        stream_writer(folder / QUARANTINE_FILE, QUARANTINE) as quarantine,
    ):
        part = _open_part(spec, tokenized, ledger, quarantine)
        for rows in _batches(part):
            _tokenize_batch(part, rows)
            progress.tick(len(rows))
    counts = part.counts
    if counts["rows"] != counts["kept"] + counts["dropped"] + counts["quarantined"] or tokenized.num_rows != counts["kept"]:
        raise ConservationError(f"{spec['source']} part {spec['part']}: rows lost in tokenize; nothing is published")
    return {"counts": dict(sorted(counts.items())), "engine": part.encoder.engine}


def _open_part(spec: dict[str, Any], tokenized: TableWriter, ledger: TableWriter, quarantine: TableWriter) -> _Part:
    folder = Path(spec["tokenizer"])
    files = tokenizer_files.read(folder)
    encoder = Encoder(folder)
    options = spec["tokenize"]
    name, format_options = spec["format"]
    function = registry.find_step("formatter", name, allow_code=spec["allow_code"]).function
    template = open_template(spec["template"], files)
    eos = files.special("eos_token")
    stops = {token for token in (eos, template.stop_token if template else None) if token in encoder.control}
    scope = TrainScope(frozenset(options["roles_to_train"]), options["train_on_inputs"], options["train_on_eos"])
    return _Part(
        spec=spec,
        encoder=encoder,
        template=template,
        bos=files.special("bos_token"),
        eos=eos,
        stop_ids=frozenset(encoder.control[token] for token in stops if token is not None),
        scope=scope,
        allowed=allowed_control(options["control_tokens_allowed"], files),
        format=lambda record: function(record, **format_options),
        tokenized=tokenized,
        ledger=ledger,
        quarantine=quarantine,
        counts=Counter(),
    )


def open_template(name: str | None, files: tokenizer_files.TokenizerFiles) -> Template | None:
    """Load a chat template for a tokenizer; None where the recipe's formats need none."""
    if name is None:
        return None
    return load_template(
        name,
        tokenizer_template=files.chat_template,
        bos_token=files.special("bos_token"),
        eos_token=files.special("eos_token"),
    )


def allowed_control(
    given: dict[str, list[str]] | None, files: tokenizer_files.TokenizerFiles
) -> dict[str, frozenset[str]]:
    """Return the control tokens that content of each role may hold: those given, else the template's own reasoning tokens."""
    if given is not None:
        return {role: frozenset(tokens) for role, tokens in given.items()}
    text = files.chat_template or ""
    own = frozenset(token for token in REASONING_AND_TOOL_TOKENS if token in files.added_tokens and token in text)
    return {"assistant": own} if own else {}


def _batches(part: _Part) -> Iterator[list[_Row]]:
    """Yield the kept documents of the part, formatted and rendered, in batches; rows that cannot be are put in quarantine."""
    keep, _ = read_decisions(Path(part.spec["decisions"]), part.spec["part"])
    folder = Path(part.spec["documents"])
    number = 0
    for documents, keys in zip(read_batches(folder / DOCUMENTS_FILE), read_batches(folder / KEYS_FILE), strict=True):
        for first in range(0, len(documents), BATCH_ROWS):
            chosen = np.flatnonzero(keep[number + first : number + min(first + BATCH_ROWS, len(documents))]) + first
            picked = documents.select(["id", "record", "marks"]).take(pa.array(chosen))
            digests = keys.column("digest").take(pa.array(chosen)).to_pylist()
            part.counts["rows"] += len(chosen)
            columns = [column.to_pylist() for column in picked.columns]
            rows = [
                _render(part, number + index, *values, digest)
                for index, *values, digest in zip(chosen.tolist(), *columns, digests, strict=True)
            ]
            yield [row for row in rows if row is not None]
        number += len(documents)


def _render(part: _Part, number: int, row_id: str, record: str, marks: str | None, digest: bytes) -> _Row | None:
    try:
        example = part.format(_load_json(record))
        if marks is not None:
            example = _apply_marks(example, orjson.loads(marks))
        return _Row(number, row_id, example, _render_example(part, example), digest)
    except InvalidRecord as error:
        _quarantine(part, row_id, error.reason, error.detail, record.encode())
        return None


def _load_json(record: str) -> dict[str, Any]:
    try:
        value: dict[str, Any] = orjson.loads(record)
    except orjson.JSONDecodeError:
        value = json.loads(record)  # integers past 64 bits
    return value


def _render_example(part: _Part, example: Example) -> Rendered:
    if example.chat:
        if part.template is None:
            raise TokenizerError(
                f"source {part.spec['source']!r} has dialogues, but the tokenizer has no chat template; "
                "set tokenizer.chat_template"
            )
        return part.template.render(example.turns, part.scope)
    if part.eos is None:
        raise TokenizerError(f"source {part.spec['source']!r} has plain text, but the tokenizer has no eos_token to end it with")
    return render_plain(example.turns, part.bos, part.eos, part.scope)


def _apply_marks(example: Example, marks: Sequence[Sequence[Any]]) -> Example:
    """Return the example with the cleaners' marks on its turns."""
    turns = list(example.turns)
    for path, kind, value in marks:
        for index, turn in enumerate(turns):
            if any(list(span.path) == path for span in turn.spans):
                turns[index] = _marked(turn, kind, value)
    return example._replace(turns=tuple(turns))


def _marked(turn: Turn, kind: str, value: float) -> Turn:
    if kind == "mask_loss":
        return turn._replace(train=False, parts=())
    return turn._replace(weight=turn.weight * value)


def _quarantine(part: _Part, row_id: str, reason: str, place: str, raw: bytes) -> None:
    source = part.spec["source"]
    part.counts["quarantined"] += 1
    part.counts[f"quarantine:{reason}"] += 1
    part.quarantine.append((source, row_id, reason, place, raw[:QUARANTINE_BYTES]))
    part.ledger.append(Entry(source, row_id, -1, "tokenize", "format", "", "quarantine", reason, place))


def _tokenize_batch(part: _Part, rows: list[_Row]) -> None:
    if not rows:
        return
    batch = concatenate([row.rendered.text for row in rows])
    encoded = part.encoder.encode(batch)
    dropped: set[int] = set()
    if part.spec["tokenize"]["control_tokens"] != "allow":
        encoded, dropped = _guard(part, rows, batch, encoded)
    trained_spans = masking.to_bytes(batch, [row.rendered.trained for row in rows])
    mask = masking.inside(encoded, trained_spans)
    part.counts["straddling_tokens"] += int(np.count_nonzero(masking.touching(encoded, trained_spans) & ~mask))
    unproven = _unproven_rows(part, rows, batch, encoded, trained_spans)
    for row in sorted(unproven - dropped):
        detail = "a trained turn does not end in the token that stops it"
        _quarantine(part, rows[row].id, "mask_unproven", detail, rows[row].rendered.text.encode())
    kept = np.array([row not in dropped and row not in unproven for row in range(len(rows))])
    _write(part, rows, batch, encoded, mask, kept)


def _guard(part: _Part, rows: list[_Row], batch: Batch, encoded: Encoded) -> tuple[Encoded, set[int]]:
    """Find rows whose content became control tokens, and act on them: escape, drop, or stop the build.

    A row is clean when none of its control tokens touches content (those allowed there aside) and it has exactly as many as the
    template wrote.
    """
    content = masking.to_bytes(batch, [[span[:2] for span in row.rendered.content] for row in rows])
    control = np.flatnonzero(part.encoder.is_control[encoded.ids])
    owner = np.searchsorted(encoded.row_offsets, control, side="right") - 1
    touched = masking.touching(encoded, content)[control]
    suspects = set(owner[touched].tolist())
    num_outside = np.bincount(owner[~touched], minlength=len(rows))
    for index, row in enumerate(rows):
        if num_outside[index] != _count_written(part, row):
            suspects.add(index)
    replaced = {}
    dropped: set[int] = set()
    for index in sorted(suspects):
        forged = _forged(part, rows[index])
        if not forged and num_outside[index] == _count_written(part, rows[index]):
            continue  # every control token in the content is one that its role may use
        if _act(part, rows[index], forged):
            replaced[index] = part.encoder.encode_pieces(rows[index].rendered.text, _written_spans(part, rows[index]))
        else:
            dropped.add(index)
    return (splice(batch, encoded, replaced) if replaced else encoded), dropped


def _act(part: _Part, row: _Row, forged: list[str]) -> bool:
    """Count a row whose content holds control tokens and write it into the ledger; returns False where it is dropped."""
    policy = part.spec["tokenize"]["control_tokens"]
    source = part.spec["source"]
    evidence = ", ".join(dict.fromkeys(forged)) or "a control token across the border of content"
    if policy == "error":
        raise DataError(
            f"{source} {row.id}: content holds the control token {evidence} (tokenize.control_tokens: escape keeps it as text)"
        )
    part.counts["control_rows"] += 1
    part.counts["control_tokens"] += len(forged)
    action = "drop" if policy == "drop" else "flag"
    before = around(row.rendered.text, forged[0]) if forged else ""
    reason = "control_token" if policy == "drop" else "control_token_escaped"
    part.ledger.append(
        Entry(source, row.id, -1, "tokenize", "control_tokens", "", action, reason, evidence, before, "")
    )
    if policy == "drop":
        part.counts["dropped"] += 1
        part.counts["drop:control_token"] += 1
    return policy != "drop"


def _glue(rendered: Rendered) -> Iterator[tuple[int, int]]:
    """Yield the character spans that the template wrote: all that is not content."""
    position = 0
    for start, end, _ in rendered.content:
        if position < start:
            yield position, start
        position = end
    if position < len(rendered.text):
        yield position, len(rendered.text)


def _count_written(part: _Part, row: _Row) -> int:
    text = row.rendered.text
    return sum(_count_controls(part.encoder.control_pattern, text[start:end]) for start, end in _glue(row.rendered))


@lru_cache(maxsize=4096)
def _count_controls(pattern: Any, glue: str) -> int:
    return sum(1 for _ in pattern.finditer(glue))


def _written_spans(part: _Part, row: _Row) -> list[tuple[int, int]]:
    """Return the spans of the control tokens that the template wrote or that content may hold, in order."""
    text, pattern = row.rendered.text, part.encoder.control_pattern
    spans = [match.span() for start, end in _glue(row.rendered) for match in pattern.finditer(text, start, end)]
    for start, end, turn in row.rendered.content:
        allowed = part.allowed.get(row.example.turns[turn].role, frozenset())
        spans.extend(match.span() for match in pattern.finditer(text, start, end) if match[0] in allowed)
    return sorted(spans)


def _forged(part: _Part, row: _Row) -> list[str]:
    """Return the control tokens in content that its role may not use."""
    found = []
    for start, end, turn in row.rendered.content:
        allowed = part.allowed.get(row.example.turns[turn].role, frozenset())
        matches = part.encoder.control_pattern.finditer(row.rendered.text, start, end)
        found.extend(match[0] for match in matches if match[0] not in allowed)
    return found


def _unproven_rows(part: _Part, rows: list[_Row], batch: Batch, encoded: Encoded, spans: masking.Spans) -> set[int]:
    """Return the rows in which a trained answer does not end in a stop token of its own."""
    if not part.scope.train_on_eos:
        return set()
    last = masking.last_tokens(encoded, spans)
    ends_answer = np.array([end in _stops(part, row) for row in rows for start, end in row.rendered.trained if start < end], dtype=bool)
    wrong = ends_answer & ~np.isin(last, list(part.stop_ids))
    return set(spans.row[wrong].tolist())


def _stops(part: _Part, row: _Row) -> frozenset[int]:
    """Return the character positions at which the row's text says that a stop token ends."""
    stop = part.template.stop_token if row.example.chat and part.template else part.eos
    text = row.rendered.text
    return frozenset(end for _, end in row.rendered.trained if stop and text.endswith(stop, 0, end))


def _write(
    part: _Part, rows: list[_Row], batch: Batch, encoded: Encoded, mask: npt.NDArray[np.bool_], kept: npt.NDArray[np.bool_]
) -> None:
    """Append the kept rows of a batch to TOKENIZED."""
    lengths = np.diff(encoded.row_offsets)
    turn_ends, num_turns = masking.positions(encoded, batch, [row.rendered.turn_ends for row in rows])
    weight_pairs, weight_values, num_weights = _weights(rows, batch, encoded, mask)
    num_trained = np.add.reduceat(np.append(mask, False), encoded.row_offsets[:-1], dtype=np.int64) * (lengths > 0)
    if not kept.all():
        token_kept = np.repeat(kept, lengths)
        ids, mask, lengths = encoded.ids[token_kept], mask[token_kept], lengths[kept]
        turn_ends, num_turns = turn_ends[np.repeat(kept, num_turns)], num_turns[kept]
        weight_pairs = weight_pairs[np.repeat(kept, 2 * num_weights)]
        weight_values, num_weights = weight_values[np.repeat(kept, num_weights)], num_weights[kept]
        num_trained = num_trained[kept]
        rows = [row for row, keep in zip(rows, kept, strict=True) if keep]
    else:
        ids = encoded.ids
    row_offsets = np.append(0, np.cumsum(lengths))
    run_pairs, num_run_values = masking.runs(mask, row_offsets)
    int32 = pa.int32()
    part.counts["kept"] += len(rows)
    part.counts["tokens"] += len(ids)
    part.counts["trained_tokens"] += int(num_trained.sum())
    part.counts["turns"] += int(num_turns.sum())
    part.counts["weighted_rows"] += int(np.count_nonzero(num_weights))
    part.tokenized.extend_columns(
        [
            [row.number for row in rows],
            [part.spec["source"]] * len(rows),
            [row.id for row in rows],
            [part.spec["category"]] * len(rows),
            list_column(ids, lengths, int32),
            list_column(run_pairs, num_run_values, int32),
            list_column(weight_pairs, 2 * num_weights, int32),
            list_column(weight_values, num_weights, pa.float32()),
            list_column(turn_ends, num_turns, int32),
            pa.array(num_trained.astype(np.int32)),
            [row.digest for row in rows],
        ]
    )


def _weights(
    rows: list[_Row], batch: Batch, encoded: Encoded, mask: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the weight runs as flat (start, length) pairs, one value a pair, and the number of pairs of each row."""
    pairs: list[tuple[int, int]] = []
    values: list[float] = []
    counts = np.zeros(len(rows), dtype=np.int64)
    for index, row in enumerate(rows):
        if not row.rendered.weights:
            continue
        first, last = encoded.row_offsets[index], encoded.row_offsets[index + 1]
        for start, end, weight in row.rendered.weights:
            low, high = batch.char_bytes[np.array([start, end]) + batch.row_chars[index]]
            inside = (encoded.starts[first:last] >= low) & (encoded.ends[first:last] <= high) & mask[first:last]
            tokens = np.flatnonzero(inside)
            if len(tokens):
                pairs.append((int(tokens[0]), int(tokens[-1] - tokens[0] + 1)))
                values.append(weight)
                counts[index] += 1
    return np.array(pairs, dtype=np.int32).ravel(), np.array(values, dtype=np.float32), counts
