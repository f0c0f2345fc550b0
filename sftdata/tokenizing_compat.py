"""Tokenize under `tokenize.compat`: a published script decides ids, masks, length and acceptance of every record."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sftdata import progress
from sftdata.compat import SCRIPTS, Outcome, Tokenizer, Tokens
from sftdata.entries import read_decisions
from sftdata.environment import rows_one_by_one
from sftdata.formatting import Documents, read_documents
from sftdata.ledger import Entry
from sftdata.mask_lint import MaskLint
from sftdata.masking import TokenRuns
from sftdata.record_json import parse
from sftdata.records import InvalidRecord
from sftdata.schemas import QUARANTINE_BYTES, TOKENIZED
from sftdata.tables import TableWriter
from sftdata.tokenizers import files as tokenizer_files
from sftdata.tokenizers.encoder import Encoded


class Writers(NamedTuple):
    """The tables that Tokenize writes."""

    tokenized: TableWriter
    ledger: TableWriter
    quarantine: TableWriter


def tokenize_as_published(spec: dict[str, Any], writers: Writers) -> tuple[Counter[str], MaskLint]:
    """Tokenize the kept documents of a part as `spec["tokenize"]["compat"]` does; return the counts and the mask lint.

    `spec` as in `tokenizing.tokenize_part`. Raises TokenizerError.
    """
    folder = Path(spec["tokenizer"])
    files = tokenizer_files.read(folder)
    loaded = tokenizer_files.load(tokenizer_files.read_text(folder / "tokenizer.json"), str(folder))
    tokenizer = Tokenizer(loaded, files.special("bos_token"), files.special("eos_token"))
    options = spec["tokenize"]
    script = SCRIPTS[options["compat"]].tokenize
    counts: Counter[str] = Counter(rows=0, kept=0, dropped=0, quarantined=0)
    lint = MaskLint([tokenizer.eos_id], tokenizer.bos_id, whole_rows=True)
    keep, _ = read_decisions(Path(spec["decisions"]), spec["part"])
    for documents, lost in rows_one_by_one(read_documents(Path(spec["documents"]), keep), spec.get("left_out")):
        records = [] if lost else [parse(text) for text in documents.records.to_pylist()]
        outcomes: list[Outcome] = [*lost.values()] or script(tokenizer, records, spec["format"][1], options["sequence_len"])
        counts["rows"] += len(outcomes)
        _write_refused(spec, documents, outcomes, writers, counts)
        chosen = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Tokens)]
        kept = [outcome for outcome in outcomes if isinstance(outcome, Tokens)]
        _write_kept(spec, documents.take(np.array(chosen, dtype=np.intp)), kept, writers.tokenized, counts)
        _lint(kept, lint)
        progress.tick(len(outcomes))
    return counts, lint


def _lint(kept: list[Tokens], lint: MaskLint) -> None:
    """Count what the mask lint counts; a row is one turn, which has to end in EOS."""
    none = np.zeros(0, dtype=np.int64)
    lengths = np.array([len(tokens.ids) for tokens in kept], dtype=np.int64)
    ids = np.fromiter(chain.from_iterable(tokens.ids for tokens in kept), dtype=np.int32, count=int(lengths.sum()))
    spans = [(row, low, high - low) for row, tokens in enumerate(kept) for low, high in tokens.trained if low < high]
    trained = TokenRuns(*np.array(spans, dtype=np.int64).reshape(-1, 3).T)
    encoded = Encoded(ids, np.append(0, np.cumsum(lengths)), none, none)
    everything = np.ones(len(kept), dtype=np.int64)
    lint.add(encoded, trained, lengths.astype(np.int32), everything, everything > 0)


def _write_refused(
    spec: dict[str, Any], documents: Documents, outcomes: list[Outcome], writers: Writers, counts: Counter[str]
) -> None:
    source, compat = spec["source"], spec["tokenize"]["compat"]
    for number, outcome in enumerate(outcomes):
        row_id = documents.ids[number].as_py()
        if isinstance(outcome, InvalidRecord):
            counts["quarantined"] += 1
            counts[f"quarantine:{outcome.reason}"] += 1
            raw = documents.records[number].as_py().encode()[:QUARANTINE_BYTES]
            writers.quarantine.append((source, row_id, outcome.reason, outcome.detail, raw))
            entry = Entry(source, row_id, -1, "tokenize", compat, "", "quarantine", outcome.reason, outcome.detail)
            writers.ledger.append(entry)
        elif outcome is None:
            counts["dropped"] += 1
            counts["drop:compat"] += 1
            writers.ledger.append(Entry(source, row_id, -1, "tokenize", compat, "", "drop", "compat"))


def _write_kept(
    spec: dict[str, Any], documents: Documents, kept: list[Tokens], tokenized: TableWriter, counts: Counter[str]
) -> None:
    trained = [[(low, high) for low, high in tokens.trained if low < high] for tokens in kept]
    num_trained = [sum(high - low for low, high in spans) for spans in trained]
    counts["kept"] += len(kept)
    counts["tokens"] += sum(len(tokens.ids) for tokens in kept)
    counts["trained_tokens"] += sum(num_trained)
    values = {
        "row": documents.numbers,
        "source": [spec["source"]] * len(kept),
        "id": documents.ids,
        "category": [spec["category"]] * len(kept),
        "input_ids": [tokens.ids for tokens in kept],
        "mask_runs": [[value for low, high in spans for value in (low, high - low)] for spans in trained],
        "weight_starts": [[]] * len(kept),
        "weight_values": [[]] * len(kept),
        "turn_ends": [[len(tokens.ids)] for tokens in kept],
        "content_runs": [[]] * len(kept),
        "chat": [False] * len(kept),
        "num_trained": num_trained,
        "digest": documents.digests,
    }
    columns = [(values[field.name], field.type) for field in TOKENIZED]
    tokenized.extend_columns(
        [column if isinstance(column, pa.Array) else pa.array(column, kind) for column, kind in columns]
    )
