"""Failures that tools of curation are known for (`docs/clean.md`), and the tests of them that belong to no other module."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from build_support import needs_shared

from sftdata.cleaners.slop import slop
from sftdata.pipeline import build
from sftdata.records import Drop
from sftdata.schemas import SPANS

ROOT = Path(__file__).resolve().parents[1]
NUM_FAILURES = 15


def slop_answers(*dialogues: Sequence[tuple[str, str]]) -> list[Any]:
    """Return what the slop rules answer to the last turn of each dialogue."""
    rows = [(row, "f", turn, *said) for row, dialogue in enumerate(dialogues) for turn, said in enumerate(dialogue)]
    answers = slop(pa.table([pa.array(column) for column in zip(*rows, strict=True)], names=SPANS.names).cast(SPANS))
    last = {row: answer for (row, *_), answer in zip(rows, answers, strict=True)}
    return list(last.values())


def test_every_known_failure_names_tests_that_exist() -> None:
    section = (ROOT / "docs" / "clean.md").read_text(encoding="utf-8").partition("## Known failures")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == NUM_FAILURES
    functions: dict[str, set[str]] = {}
    for row in rows:
        named = re.findall(r"`(test_\w+)\.py::(test_\w+)`", row)
        assert named, row
        for module, function in named:
            if module not in functions:
                tree = ast.parse((ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8"))
                functions[module] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert function in functions[module], f"{module}.py has no {function}"


@pytest.mark.parametrize(
    ("answer", "step"),
    [
        ("fine ＜|im_end|＞ fine", {"unicode": {"form": "NFKC"}}),
        ("fine <|im_\u200bend|> fine", "unicode"),
        ("fine <|im_墨end|> fine", {"terms": {"replace": {"墨": ""}}}),
    ],
)
def test_control_token_that_cleaning_makes_is_caught_after_the_last_cleaner(tmp_path: Path, answer: str, step: Any) -> None:
    rows = [{"instruction": f"question {number}", "output": answer if number == 3 else "an answer"} for number in range(9)]
    (tmp_path / "rows.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    recipe = {
        "name": "made",
        "tokenizer": {"train": {"vocab_size": 300}, "chat_template": "chatml"},
        "sources": [{"name": "rows", "path": "rows.jsonl", "ingest": "jsonl", "format": "instruction"}],
        "clean": [step],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    result = build(tmp_path / "recipe.yaml", out=tmp_path / "out")
    ledger = pq.read_table(result.folder / ".sftdata" / "ledger.parquet").to_pylist()
    [found] = [row for row in ledger if row["step"] == "control_tokens"]
    assert (found["id"], found["reason"], found["evidence"]) == ("rows.jsonl#3", "control_token_escaped", "<|im_end|>")


def test_refusal_that_a_user_says_or_quotes_is_none_of_the_answer() -> None:
    refusal = "I'm sorry, but as an AI language model I cannot assist with that request."
    kept = [
        [("user", refusal), ("assistant", "That is how chatbots talk.")],
        [("user", f"What is wrong with “{refusal}”?"), ("assistant", f"It says “{refusal}” where a word would do.")],
        [("user", "对不起，作为AI，我无法回答。这句话哪里不好？"), ("assistant", "太生硬：「作为AI，我无法回答」不像人话。")],
    ]
    assert not any(isinstance(answer, Drop) for answer in slop_answers(*kept))
    assert isinstance(slop_answers([("user", refusal), ("assistant", refusal)])[0], Drop)


def test_lines_of_a_court_drama_are_no_slop() -> None:
    rows = orjson.loads(needs_shared("data", "chat", "huanhuan.json").read_bytes())
    answers = slop_answers(*([("user", row["instruction"] or "……"), ("assistant", row["output"])] for row in rows))
    assert len(answers) == len(rows) > 3_000
    assert sum(isinstance(answer, Drop) for answer in answers) <= len(rows) // 1_000


def test_one_long_line_of_slop_is_scanned_without_squared_work() -> None:
    """A hit that is reported far behind it would cost its distance; windows bound it. No clock: the answer is what counts."""
    line = "He thinks that I cannot, as an AI, say more of this, " * 8_000 + "she said."
    [answer] = slop_answers([("user", "Go on"), ("assistant", line)])
    assert isinstance(answer, Drop) and len(answer.evidence) < 300
