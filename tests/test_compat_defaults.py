"""Where the default differs from the published scripts: each difference by name, and nothing else.

Without a reason to differ, a row is the published one with the named correction that all rows get: BOS is context and not
trained; of Atom's rows the second BOS is left out, no token of the prompt is trained, and the answer is encoded as what follows
the prompt, without the space that encoding it alone puts before it.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from build_support import needs_shared, write_small_recipe
from test_compat import FOLDERS, FORMATS, expected_outcome, outcomes, read_lines
from tokenizers import Tokenizer

import sftdata

BOS = 1
TEMPLATES = {"colossal_pretrain": "human_assistant", "colossal_sft": "human_assistant", "atom_lora": "atom"}
LIMIT_KEYS = {"colossal_pretrain": "max_length", "colossal_sft": "max_length", "atom_lora": "max_seq_length"}


def is_corrected(compat: str, found: Any, published: Any) -> bool:
    """Tell whether a row is the published one but for the corrections that every row gets by default."""
    if isinstance(found, str) or isinstance(published, str):
        return bool(found == published)
    ids, labels = published
    if compat != "atom_lora":
        return bool(found == (ids, [-100 if label == BOS else label for label in labels]))
    first = next(place for place, label in enumerate(labels) if label != -100) + 1
    answer = [label for label in found[1] if label != -100]
    same_answer = llama2().decode(answer).lstrip() == llama2().decode(ids[first:]).lstrip()
    return same_answer and found[0] == ids[1:first] + answer and found[1] == [-100] * (first - 1) + answer


@cache
def llama2() -> Tokenizer:
    return Tokenizer.from_file(str(needs_shared("parity", "tokenizer-llama2", "tokenizer.json")))


def contents(record: dict[str, Any]) -> list[Any]:
    turns = [turn.get("content") for turn in record.get("messages", [])]
    return [*turns, *(value for key, value in record.items() if key not in ("messages", "category"))]


def reasons(compat: str, record: dict[str, Any], expected: dict[str, Any], limit: int) -> set[str]:
    """Return the names of what the default does otherwise with a record."""
    found = set()
    messages = record.get("messages", [])
    if any(isinstance(text, str) and any(token in text for token in ("<s>", "</s>", "<unk>")) for text in contents(record)):
        found.add("special strings in content are text")
    if "error" in expected:
        found.add("roles, nulls and missing fields have rules of their own")
    if any(message.get("content") in ("", None) for message in messages) or (compat == "colossal_sft" and not messages):
        found.add("empty contents are turns, and a record without a turn is quarantined")
    if len(messages) % 2:
        found.add("a last message without its pair is context")
    roles = [message["from"].lower() for message in messages]
    if any(first == second for first, second in pairwise(roles)) or roles[:1] == ["assistant"]:
        found.add("the assistant's turns are trained in whatever order")
    after = llama2().encode("Assistant:" + str(record.get("output")), add_special_tokens=False)
    merged = all(start != len("Assistant:") for start, _ in after.offsets)
    if not expected.get("derived", {}).get("prefix_of_sequence_equals_source_tokens", not merged):
        found.add("a token over the border is context")
    if "system" in record:
        found.add("an empty system text is none, and what follows another is the template's")
    length = expected.get("untruncated_length") or expected.get("derived", {}).get("untruncated_length", 0)
    if length > limit:
        found.add("a row that is too long is dropped, not cut")
    return found


COMMON = {"special strings in content are text", "roles, nulls and missing fields have rules of their own"}
CUT = {"a token over the border is context", "a row that is too long is dropped, not cut"}
TURNS = {
    "empty contents are turns, and a record without a turn is quarantined",
    "an empty system text is none, and what follows another is the template's",
    "a last message without its pair is context",
    "the assistant's turns are trained in whatever order",
}
CASES = {
    "colossal_pretrain": (256, COMMON | CUT),
    "colossal_sft": (4096, COMMON | TURNS),
    "atom_lora": (256, CUT | {"special strings in content are text"}),
}


@pytest.mark.parametrize("compat", CASES)
def test_defaults_differ_from_the_published_scripts_where_named(tmp_path: Path, compat: str) -> None:
    folder = needs_shared("parity", FOLDERS.get(compat, compat), "public")
    limit, named = CASES[compat]
    inputs = read_lines(folder / "input.jsonl")
    records = [{**row["record"], **({"system": row["system"]} if "system" in row else {})} for row in inputs]
    found = build_by_default(tmp_path, compat, limit, records)
    expected = [row for row in read_lines(folder / "expected.jsonl") if row[LIMIT_KEYS[compat]] == limit]
    number_of = {row["id"]: number for number, row in enumerate(inputs)}
    seen: Counter[str] = Counter()
    for row in expected:
        number = number_of[row["id"]]
        why = reasons(compat, records[number], row, limit)
        if is_corrected(compat, found[number], expected_outcome(row)):
            seen["corrected"] += 1
        else:
            assert why, (row["id"], found[number], expected_outcome(row))
            seen.update(why)
    assert seen["corrected"] > 20 and named <= set(seen), seen


def build_by_default(tmp_path: Path, compat: str, limit: int, records: list[Any]) -> dict[int, Any]:
    source = {"name": "rows", "path": "rows.jsonl", "ingest": "jsonl", "format": FORMATS[compat]}
    recipe = write_small_recipe(
        tmp_path, tokenizer={"path": str(needs_shared("parity", "tokenizer-llama2")), "chat_template": TEMPLATES[compat]},
        sources=[source], clean=[], split={"validation": 0.0}, mix={"strategy": "concat", "shuffle": False},
        pack={"strategy": "padding"}, tokenize={"sequence_len": limit}, limits={"max_drop": 1.0, "max_bad": 1.0},
    )  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return outcomes(sftdata.build(recipe, out=tmp_path / "out", workers=1).folder, len(records))
