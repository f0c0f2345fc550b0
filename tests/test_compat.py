"""The published scripts: every record of the public reference sets, through whole builds, id by id and label by label."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from build_support import needs_shared, run_command
from build_support import write_small_recipe as write_recipe

import sftdata
from sftdata.errors import RecipeError
from sftdata.views.verify import verify

FORMATS = {
    "colossal_pretrain": "source_target",
    "colossal_sft": {"messages": {"system": "system"}},
    "atom_lora": "instruction",
    "tinystories": "text",
}


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def build_as_published(tmp_path: Path, compat: str, limit: int, records: list[Any], tokenizer: Path) -> dict[str, Any]:
    """Build records one a row; return what became of each: (ids, labels), `drop` or `quarantine`, in their order."""
    folder = tmp_path / f"{compat}-{limit}"
    source = {"name": "rows", "path": "rows.jsonl", "ingest": "jsonl", "format": FORMATS[compat]}
    recipe = write_recipe(
        folder, tokenizer={"path": str(tokenizer)}, sources=[source], clean=[], split={"validation": 0.0},
        mix={"strategy": "concat", "shuffle": False}, pack={"strategy": "padding"},
        tokenize={"compat": compat, "sequence_len": limit, "control_tokens": "allow"},
        limits={"max_drop": 1.0, "max_bad": 1.0},
    )  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    built = sftdata.build(recipe, out=folder / "out", workers=1)
    assert verify(built.folder).problems == []
    return outcomes(built.folder, len(records))


def outcomes(folder: Path, num_records: int) -> dict[str, Any]:
    shards = sftdata.open_shards(folder)
    rows = []
    for batch in shards.splits["train"].flat_batches():
        offsets, ids = batch["input_ids"]
        labels = batch["labels"][1]
        rows += [(ids[a:b].tolist(), labels[a:b].tolist()) for a, b in pairwise(offsets)]
    lineage = pq.read_table(folder / ".sftdata" / "lineage.parquet").to_pylist()
    ledger = pq.read_table(folder / ".sftdata" / "ledger.parquet").to_pylist()
    found = {place["id"]: rows[place["row"]] for place in lineage}
    found.update({entry["id"]: entry["action"] for entry in ledger if entry["action"] in ("drop", "quarantine")})
    assert len(found) == num_records
    return {number: found[f"rows.jsonl#{number}"] for number in range(num_records)}


def expected_outcome(expected: dict[str, Any]) -> Any:
    if "error" in expected:
        return "quarantine"
    return "drop" if expected.get("dropped") else (expected["input_ids"], expected["labels"])


CASES = [
    ("colossal_pretrain", "expected.jsonl", "max_length", "tokenizer-llama2"),
    ("colossal_pretrain", "expected_normtrue.jsonl", "max_length", "tokenizer-llama2-normtrue"),
    ("colossal_sft", "expected.jsonl", "max_length", "tokenizer-llama2"),
    ("colossal_sft", "expected_normtrue.jsonl", "max_length", "tokenizer-llama2-normtrue"),
    ("atom_lora", "expected.jsonl", "max_seq_length", "tokenizer-llama2"),
    ("atom_lora", "expected_normtrue.jsonl", "max_seq_length", "tokenizer-llama2-normtrue"),
]
FOLDERS = {"atom_lora": "atom_sft"}


@pytest.mark.parametrize(("compat", "file", "limit_key", "tokenizer"), CASES)
def test_every_record_is_tokenized_as_published(
    tmp_path: Path, compat: str, file: str, limit_key: str, tokenizer: str
) -> None:
    folder = needs_shared("parity", FOLDERS.get(compat, compat), "public")
    inputs = read_lines(folder / "input.jsonl")
    records = [{**row["record"], **({"system": row["system"]} if "system" in row else {})} for row in inputs]
    number_of = {row["id"]: number for number, row in enumerate(inputs)}
    expected = read_lines(folder / file)
    limits = sorted({row[limit_key] for row in expected})
    seen = 0
    for limit in limits:
        found = build_as_published(tmp_path, compat, limit, records, needs_shared("parity", tokenizer))
        for row in expected:
            if row[limit_key] == limit:
                assert found[number_of[row["id"]]] == expected_outcome(row), (row["id"], limit)
                seen += 1
    assert seen == len(expected) > 50


def test_stories_keep_their_tail_as_published(tmp_path: Path) -> None:
    folder = needs_shared("parity", "tinystories")
    inputs = read_lines(folder / "process_func_input.jsonl")
    expected = read_lines(folder / "process_func_expected.jsonl")
    number_of = {row["id"]: number for number, row in enumerate(inputs)}
    for limit in sorted({row["max_token"] for row in expected}):
        records = [{"text": row["text"]} for row in inputs]
        found = build_as_published(tmp_path, "tinystories", limit, records, needs_shared("parity", "tokenizer-llama2"))
        for row in (row for row in expected if row["max_token"] == limit):
            ids, labels = found[number_of[row["id"]]]
            assert len(ids) == row["length"] and labels == ids
            assert hashlib.sha256(json.dumps(ids, separators=(",", ":")).encode()).hexdigest() == row["sha256"]
    assert len(expected) == 5 * len(inputs)


@pytest.mark.parametrize(
    ("tokenize", "message"),
    [
        ({"compat": "tinystories"}, "needs sequence_len"),
        ({"compat": "tinystories", "sequence_len": 8, "control_tokens": "escape"}, "control_tokens escape has no meaning"),
        ({"compat": "tinystories", "sequence_len": 8, "excess_length": "drop"}, "excess_length has no meaning"),
        ({"compat": "atom_lora", "sequence_len": 8}, "formatter instruction"),
        ({"sequence_len": 1}, "leaves nothing to train"),
    ],
)
def test_options_without_meaning_under_compat_are_refused(tmp_path: Path, tokenize: dict[str, Any], message: str) -> None:
    source = {"name": "rows", "path": "talk", "ingest": "jsonl", "format": "text"}
    recipe = write_recipe(tmp_path, sources=[source], tokenize=tokenize, pack={"strategy": "padding"})
    with pytest.raises(RecipeError, match=message):
        sftdata.load_recipe(recipe)


def test_tokenizer_without_bos_is_refused_in_one_line(tmp_path: Path) -> None:
    source = {"name": "rows", "path": "talk", "ingest": "jsonl", "format": "instruction"}
    recipe = write_recipe(
        tmp_path, sources=[source], tokenize={"compat": "atom_lora", "sequence_len": 64}, limits={"max_bad": 1.0}
    )
    done = run_command("build", recipe, folder=tmp_path)
    assert done.returncode == 1 and "bos_token" in done.stderr and "Traceback" not in done.stderr
