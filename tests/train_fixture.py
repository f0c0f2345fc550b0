"""Small finished builds for the trainer's tests: a word tokenizer, counting documents, packed or unpacked shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sftdata import schemas, sealing, shards, storage
from sftdata.trainer import TrainSettings

# Models this small are slower on two threads than on one, by far so while another process keeps a core busy.
torch.set_num_threads(1)

WORDS = [f"w{number}" for number in range(40)]
BOS, EOS, USER, ASSISTANT = 0, 1, 2, 3
FIRST_WORD = 4
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} </s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TINY_LLAMA = {
    "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2
}


@dataclass(frozen=True)
class Document:
    """Token ids of one document and how many of them, from the beginning, are not trained."""

    ids: tuple[int, ...]
    num_untrained: int = 1
    weight: float = 1.0

    @property
    def labels(self) -> list[int]:
        """Labels with the untrained beginning at −100."""
        return [schemas.IGNORE_INDEX] * self.num_untrained + list(self.ids[self.num_untrained :])


@dataclass
class Build:
    """What `write_build` is asked for: rows of documents by split."""

    splits: Mapping[str, Sequence[Sequence[Document]]]
    packed: bool = True
    weighted: bool = False
    buckets: tuple[int, ...] = ()
    template: str | None = TEMPLATE
    special: dict[str, str] = field(default_factory=lambda: {"bos_token": "<s>", "eos_token": "</s>"})

    @property
    def columns(self) -> list[str]:
        """The shard's columns."""
        last = ["loss_weights"] if self.weighted else []
        return ["input_ids", "labels", "seq_lengths" if self.packed else "attention_mask", *last]


def counting(start: int, length: int, num_untrained: int = 1) -> Document:
    """Return a document that counts upwards from word `start`: BOS, length − 2 words, EOS."""
    words = tuple(FIRST_WORD + (start + step) % len(WORDS) for step in range(length - 2))
    return Document((BOS, *words, EOS), num_untrained)


def counting_rows(num_rows: int, num_documents: int = 3, first: int = 0) -> list[list[Document]]:
    """Return rows of `num_documents` counting documents of lengths 5 to 9."""
    return [
        [counting(7 * row + 3 * place + first, 5 + (row + place) % 5) for place in range(num_documents)]
        for row in range(num_rows)
    ]


def tiny_settings(**changes: Any) -> TrainSettings:
    """Return settings that train a tiny Llama in a second."""
    values: dict[str, Any] = {
        "model": TINY_LLAMA, "micro_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1, "max_new_tokens": 4,
        "report_to": "none",
    }
    return TrainSettings(**{**values, **changes})


def silent(line: str) -> None:
    """Take a line that training reports, and do nothing with it."""


def save_tokenizer(folder: Path, template: str | None = TEMPLATE, **special: str) -> PreTrainedTokenizerFast:
    """Save a word tokenizer of 44 tokens."""
    names = ["<s>", "</s>", "<user>", "<assistant>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, additional_special_tokens=["<user>", "<assistant>"], **special
    )
    fast.chat_template = template
    fast.save_pretrained(str(folder))
    return fast


def _row_values(row: Sequence[Document], column: str) -> list[Any]:
    if column == "seq_lengths":
        return [len(document.ids) for document in row]
    by_token: dict[str, Callable[[Document], list[Any]]] = {
        "input_ids": lambda document: list(document.ids),
        "labels": lambda document: document.labels,
        "attention_mask": lambda document: [1] * len(document.ids),
        "loss_weights": lambda document: [document.weight] * len(document.ids),
    }
    return [value for document in row for value in by_token[column](document)]


def _batch(rows: Sequence[Sequence[Document]], columns: list[str]) -> pa.RecordBatch:
    arrays = []
    for column in columns:
        values = [_row_values(row, column) for row in rows]
        kind = shards.COLUMN_TYPES[column].value_type
        flat = np.array([value for row in values for value in row])
        arrays.append(shards.list_column(flat, np.array([len(row) for row in values], dtype=np.int64), kind))
    return pa.record_batch(arrays, names=columns)


def write_build(folder: Path, build: Build) -> Path:
    """Write a finished build with a manifest, a tokenizer and a lineage."""
    splits: dict[str, Any] = {}
    lineage: list[dict[str, Any]] = []
    for name, rows in build.splits.items():
        storage.make_folder(folder / name)
        file = shards.shard_name(0, 1)
        shards.write_shard(folder / name / file, build.columns, [_batch(rows, build.columns)] if rows else [])
        shards.write_split_metadata(folder / name, build.columns, [file], "0")
        buckets = list(build.buckets) if build.buckets and name == "train" else [len(rows)]
        counts = {"rows": len(rows), "tokens": 0, "trained_tokens": 0}
        splits[name] = {"columns": build.columns, **counts, "files": [file], "bucket_rows": buckets}
        lineage += [
            {"split": name, "row": row, "segment": segment, "source": "count", "id": f"count.jsonl#{3 * row + segment}",
             "start": 0, "length": len(document.ids), "copy": 0}
            for row, documents in enumerate(rows) for segment, document in enumerate(documents)
        ]
    save_tokenizer(folder / "tokenizer", build.template, **build.special)
    storage.make_folder(folder / ".sftdata")
    pq.write_table(pa.Table.from_pylist(lineage, schema=schemas.LINEAGE), folder / ".sftdata" / "lineage.parquet")
    files = [
        {"path": str(path.relative_to(folder)), "bytes": path.stat().st_size, "xxh3": storage.file_digest(path)}
        for path in sorted(folder.rglob("*")) if path.is_file()
    ]
    manifest = {"format_version": schemas.FORMAT_VERSION, "name": "tiny", "splits": splits, "files": files}
    storage.write_bytes(folder / shards.MANIFEST, sealing.sealed(manifest))
    return folder
