"""The Arrow schemas of the files between phases and of the side tables, and the stable lists of codes in them."""

from __future__ import annotations

import pyarrow as pa

FORMAT_VERSION = 1
"""Version of the folder layout that a build writes; readers refuse a newer one."""

IGNORE_INDEX = -100
"""Label of a token that is not trained: the value that PyTorch's cross entropy ignores by default."""

DOCUMENT = pa.schema(
    [
        ("source", pa.string()),
        ("id", pa.string()),
        ("record", pa.string()),  # canonical JSON: keys in file order, no spaces
        ("marks", pa.string()),  # JSON list of [path, kind, value], or null
    ]
)
"""One cleaned record."""

KEYS = pa.schema(
    [
        ("digest", pa.binary(16)),  # xxh3_128 over (role, text) of the record's spans
        ("text_digests", pa.list_(pa.uint64())),  # xxh3_64 of each span's text
    ]
)
"""What Resolve needs of a document, row for row beside DOCUMENT."""

SPANS = pa.schema(
    [
        ("row", pa.int32()),  # which record of the batch
        ("field", pa.string()),  # the record's field, path elements joined by dots
        ("turn", pa.int32()),
        ("role", pa.string()),
        ("text", pa.string()),
    ]
)
"""The table that a batched cleaner receives."""

TOKENIZED = pa.schema(
    [
        ("row", pa.int32()),  # the document's number in its part
        ("source", pa.string()),
        ("id", pa.string()),
        ("category", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("mask_runs", pa.list_(pa.int32())),  # flat pairs (start, length) of trained tokens
        ("weight_starts", pa.list_(pa.int32())),  # flat pairs (start, length) of tokens whose weight is not 1
        ("weight_values", pa.list_(pa.float32())),  # one value a pair
        ("turn_ends", pa.list_(pa.int32())),  # index after the last token of each turn
        ("content_runs", pa.list_(pa.int32())),  # flat pairs (start, length) of tokens that came from the record
        ("chat", pa.bool_()),  # False: plain text, without a template
        ("num_trained", pa.int32()),
        ("digest", pa.binary(16)),  # the row's content digest: the seeded orders hash it
    ]
)
"""One untruncated, tokenized example."""

SPLITS = ("train", "validation")

LEDGER = pa.schema(
    [
        ("source", pa.string()),
        ("id", pa.string()),
        ("turn", pa.int32()),  # -1: the whole row
        ("stage", pa.string()),
        ("step", pa.string()),
        ("rule", pa.string()),
        ("action", pa.string()),
        ("reason", pa.string()),
        ("evidence", pa.string()),
        ("before", pa.string()),
        ("after", pa.string()),
    ]
)
ACTIONS = ("drop", "drop_turn", "edit", "cut", "mask", "weight", "flag", "quarantine", "merge", "repeat")
STAGES = ("prepare", "resolve", "tokenize", "plan")

QUARANTINE = pa.schema(
    [
        ("source", pa.string()),
        ("id", pa.string()),
        ("reason", pa.string()),
        ("place", pa.string()),
        ("bytes", pa.binary()),  # the first 4 KiB of the raw record
    ]
)
QUARANTINE_BYTES = 4096
QUARANTINE_REASONS = {
    "csv_fields": "a row whose number of fields is not the header's",
    "csv_quote": "a quote that is never closed, or text after a closing quote",
    "environment": "a worker was killed or hung on the record, alone as well; the build is not reproducible",
    "encoding": "bytes that are not text in the declared or detected encoding",
    "field_missing": "a field that the format names is not in the record",
    "field_type": "a field is not of the type that the format needs",
    "file_damaged": "from here on the file cannot be read: it is damaged, cut off or encrypted",
    "file_expands": "a compressed file that gives more bytes than the limit for each of its own",
    "html_limits": "a page over the limits on size, depth or attributes",
    "html_lost_text": "an extractor lost text that the page shows",
    "json_limits": "a record over the limits on size or depth",
    "json_object": "the JSON value is not an object",
    "json_syntax": "the text is not JSON",
    "mask_unproven": "the template's render cannot be proven to contain the row's texts as they are",
    "messages_empty": "a dialogue without turns",
    "messages_role": "a turn whose role is unknown",
    "no_match": "no element of the page matches the selector",
    "no_text": "the page holds no text",
    "shape_unknown": "the record has none of the shapes that the formatter knows",
    "sql_columns": "a row whose number of values is not the table's",
    "sql_syntax": "a statement that cannot be read",
    "sql_truncated": "the dump ends inside a statement",
    "template_raised": "the chat template refused the dialogue, or has no place for its tools or reasoning",
    "too_large": "a record over the limit on bytes",
}
"""Reason codes of the quarantine: stable, documented, extended only."""

LINEAGE = pa.schema(
    [
        ("split", pa.string()),
        ("row", pa.int64()),
        ("segment", pa.int32()),
        ("source", pa.string()),
        ("id", pa.string()),
        ("start", pa.int32()),  # first token of the document in this segment
        ("length", pa.int32()),
        ("copy", pa.int32()),
    ]
)
