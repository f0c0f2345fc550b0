"""Deduplication in whole builds: what it compares, who stays, what the ledger says, where near-copies lie in the split."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from build_support import file_bytes, needs_shared

from sftdata.errors import DataError
from sftdata.exporting import export
from sftdata.pipeline import BuildResult, build
from sftdata.shards import open_shards
from sftdata.views.why import why

TOKENIZER = {"train": {"vocab_size": 300}, "chat_template": "chatml"}
LONG = "窗外的雨下了整整一夜，天亮时院子里的海棠落了一地，小丫头们拿着扫帚不忍心扫，只站在廊下说话。"
OTHER = "Which of the maids swept the yard that morning, and which of them only stood there and talked about the rain?"
SHORT = ["", "是", "是。", "好。", "起来吧。", "😀", "😂🎉", "a", "ok", "嗻。", "！"]
OVER = ("document", "turn", "prompt", "response")
MODES = [{"method": method, "over": over} for method in ("exact", "minhash") for over in OVER]


def write_source(folder: Path, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    form = "messages" if "messages" in rows[0] else "text" if "text" in rows[0] else "instruction"
    return {"name": name, "path": f"{name}.jsonl", "ingest": "jsonl", "format": form}


def build_rows(folder: Path, rows_of: dict[str, list[dict[str, Any]]], *steps: dict[str, Any], **changes: Any) -> BuildResult:
    recipe = {
        "name": "rows",
        "tokenizer": TOKENIZER,
        "sources": [write_source(folder, name, rows) for name, rows in rows_of.items()],
        "clean": [{"dedup": step} for step in steps],
        "limits": {"max_drop": 1.0},
        **changes,
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe, ensure_ascii=False), encoding="utf-8")
    return build(folder / "recipe.yaml", out=folder / "out", workers=changes.get("workers", 1))


def ledger(result: BuildResult, step: str = "dedup") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(result.folder / ".sftdata" / "ledger.parquet").to_pylist()
    return [row for row in rows if row["step"] == step]


def gone(result: BuildResult) -> list[tuple[str, str]]:
    return [(f"{row['source']} {row['id']}", row["evidence"]) for row in ledger(result)]


def said(question: str, answer: str) -> dict[str, str]:
    return {"instruction": question, "output": answer}


def changed(text: str, share: float, seed: int) -> str:
    rng = random.Random(seed)
    return "".join(char if rng.random() > share else chr(rng.randint(0x4E00, 0x9FA0)) for char in text)


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: f"{mode['method']} {mode['over']}")
def test_distinct_short_rows_stay_and_equal_ones_collapse_to_the_first(tmp_path: Path, mode: dict[str, str]) -> None:
    rows = [said(f"{text}?" if text else "", text) for text in SHORT]
    result = build_rows(tmp_path, {"talk": [*rows, *rows]}, mode)
    num = len(SHORT)
    assert gone(result) == [(f"talk talk.jsonl#{n + num}", f"talk talk.jsonl#{n}") for n in range(num)]
    actions = {row["action"] for row in ledger(result)}
    assert actions == {"mask"} if mode["over"] == "turn" else actions == {"drop"}


def test_prompt_and_response_are_compared_by_themselves(tmp_path: Path) -> None:
    rows = [said(OTHER, LONG), said("another question", LONG), said(OTHER, "short")]
    for method in ("exact", "minhash"):
        for over, index in (("document", None), ("prompt", 2), ("response", 1)):
            result = build_rows(tmp_path / method / over, {"t": rows}, {"method": method, "over": over})
            expected = [] if index is None else [(f"t t.jsonl#{index}", "t t.jsonl#0")]
            assert gone(result) == expected, (method, over)


def test_one_passage_with_other_answers_is_no_near_copy(tmp_path: Path) -> None:
    rows = [said(f"{LONG} Who?", "the maids"), said(f"{LONG} Who?", "the rain"), said(f"{LONG} Who, then?", "the maids")]
    rows = [{**row, "persona": LONG * 4} for row in [*rows, said("other", "words that are said here")]]
    form = {"format": {"instruction": {"instruction": "instruction", "output": "output", "system": "persona"}}}
    source = {**write_source(tmp_path, "t", rows), **form}
    result = build_rows(tmp_path, {"t": rows}, {"method": "minhash"}, sources=[source])
    assert gone(result) == [("t t.jsonl#2", "t t.jsonl#0")]


def test_a_repeated_answer_stays_in_its_dialogue_and_is_not_trained(tmp_path: Path) -> None:
    def dialogue(*texts: str) -> dict[str, Any]:
        roles = ("user", "assistant") * 3
        return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]}

    rows = [dialogue("q1", "same answer", "q2", "answer two"), dialogue("q3", "same answer", "q4", "answer four")]
    result = build_rows(tmp_path, {"t": rows}, {"over": "turn"})
    [row] = ledger(result)
    assert (row["id"], row["turn"], row["action"], row["rule"]) == ("t.jsonl#1", 1, "mask", "exact over turn")
    split = open_shards(result.folder).splits["train"]
    trained = [sum(label != -100 for label in split.row(n)["labels"]) for n in range(2)]
    lengths = [len(split.row(n)["input_ids"]) for n in range(2)]
    assert 0 < min(trained) < max(trained) / 1.5 and max(lengths) - min(lengths) < 5
    export(result.folder, to="jsonl", out=tmp_path / "texts")
    texts = [orjson.loads(line) for line in (tmp_path / "texts" / "train.jsonl").read_bytes().splitlines()]
    assert sorted(len(one["messages"]) for one in texts) == [4, 4]


def test_best_source_then_best_score_then_first_row_stays(tmp_path: Path) -> None:
    one = [{**said("q", "the same answer"), "stars": stars} for stars in (1, 5, "7", None)]
    sources = {"web": one, "book": one[:2]}
    for step, survivor in (
        ({}, "web web.jsonl#0"),
        ({"score": "stars"}, "web web.jsonl#2"),
        ({"priority": ["book"]}, "book book.jsonl#0"),
        ({"priority": ["book"], "score": "stars"}, "book book.jsonl#1"),
        ({"method": "minhash", "priority": ["book"], "score": "stars"}, "book book.jsonl#1"),
    ):
        result = build_rows(tmp_path, sources, step)
        assert {evidence for _, evidence in gone(result)} == {survivor} and len(gone(result)) == 5, step
    with pytest.raises(DataError, match="no record has a number in a field 'star'"):
        build_rows(tmp_path, sources, {"score": "star"})


@pytest.mark.parametrize("method", ["exact", "minhash"])
def test_against_drops_what_the_named_sources_have_and_nothing_else(tmp_path: Path, method: str) -> None:
    ours = [said("q1", LONG), said("q1", LONG), said("q2", "not in the other"), said("q2", "not in the other")]
    theirs = [said("q1", LONG), said("q1", LONG)]
    result = build_rows(tmp_path, {"ours": ours, "theirs": theirs}, {"method": method, "against": ["theirs"]})
    assert gone(result) == [(f"ours ours.jsonl#{n}", "theirs theirs.jsonl#0") for n in (0, 1)]


def test_allowed_texts_and_short_ones_are_kept(tmp_path: Path) -> None:
    rows = [said("who?", "I am the gate keeper of the garden"), said("q", "no.")] * 3
    for method in ("exact", "minhash"):
        step = {"method": method, "allow": ["who?"], "min_chars": 6}
        assert gone(build_rows(tmp_path, {"t": rows}, step)) == [], step
        assert len(gone(build_rows(tmp_path, {"t": rows}, {"method": method}))) == 4


def test_min_chars_only_takes_from_what_is_found(tmp_path: Path) -> None:
    rows = [{"text": changed(LONG, 0.01, n % 5)[: 4 + 3 * (n % 9)]} for n in range(60)]
    found = {n: set(gone(build_rows(tmp_path, {"t": rows}, {"method": "minhash", "min_chars": n}))) for n in (0, 12)}
    assert found[12] and found[12] < found[0]


def test_near_copies_go_and_say_how_alike_they_are(tmp_path: Path) -> None:
    text = "".join(random.Random(9).choices(LONG, k=300))
    rows = [{"text": text}, {"text": changed(text, 0.01, 1)}, {"text": changed(text, 0.5, 2)}]
    result = build_rows(tmp_path, {"t": rows}, {"method": "exact"}, {"method": "minhash"})
    [row] = ledger(result)
    assert (row["id"], row["evidence"], row["reason"]) == ("t.jsonl#1", "t t.jsonl#0", "near_duplicate")
    assert 0.8 <= float(row["rule"].removeprefix("minhash ")) < 1
    [life] = why(result.folder, "t.jsonl#0")
    assert life.duplicates == ["t t.jsonl#1"]


def test_a_step_that_drops_most_rows_stops_the_build_and_is_named(tmp_path: Path) -> None:
    rows = [{"text": LONG}] * 20 + [{"text": OTHER}]
    for method, reason in (("exact", "dedup:duplicate 19"), ("minhash", "dedup:near_duplicate 19")):
        with pytest.raises(DataError, match=rf"resolve: 19 of 21 rows are dropped \({reason}\); limits\.max_drop is 0\.5"):
            build_rows(tmp_path, {"t": rows}, {"method": method}, limits={"max_drop": 0.5})


def near_copies(num_groups: int) -> list[dict[str, str]]:
    """Return texts in groups of near-copies, the groups one after the other, five times over."""
    rng = random.Random(1)
    bases = ["".join(rng.choices(LONG, k=150)) for _ in range(num_groups)]
    return [{"text": changed(base, 0.005, seed)} for seed in range(5) for base in bases]


def sides(result: BuildResult) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in pq.read_table(result.folder / ".sftdata" / "lineage.parquet").to_pylist():
        found.setdefault(row["split"], set()).add(row["id"])
    return found


def test_no_near_copy_of_a_training_row_is_in_validation(tmp_path: Path) -> None:
    rows = near_copies(30)
    split = {"validation": 0.3, "group_by": "near_duplicate"}
    kept = sides(build_rows(tmp_path, {"t": rows}, split=split))
    group = {name: {int(row.partition("#")[2]) % 30 for row in ids} for name, ids in kept.items()}
    assert len(kept["train"]) + len(kept["validation"]) == len(rows) and 3 <= len(group["validation"]) <= 20
    assert not group["train"] & group["validation"]
    alone = sides(build_rows(tmp_path, {"t": rows}, split={"validation": 0.3}))
    apart = {name: {int(row.partition("#")[2]) % 30 for row in ids} for name, ids in alone.items()}
    assert apart["train"] & apart["validation"], "near-copies are not the same rows"


def test_decisions_are_the_same_for_any_workers_and_stay_cached(tmp_path: Path) -> None:
    sources = {"a": near_copies(10), "b": near_copies(12)}
    steps = [{"method": "exact"}, {"method": "minhash"}, {"over": "turn", "method": "minhash", "threshold": 0.6}]
    one = build_rows(tmp_path / "one", sources, *steps, split={"validation": 0.2, "group_by": "near_duplicate"})
    two = build(tmp_path / "one" / "recipe.yaml", out=tmp_path / "two" / "out", workers=2)
    assert file_bytes(one.folder) == file_bytes(two.folder) and len(ledger(one)) > 30
    again = build(tmp_path / "one" / "recipe.yaml", out=tmp_path / "one" / "out", workers=1)
    assert again.unchanged and again.num_reused == again.num_tasks


def test_another_rule_for_survivors_needs_no_new_signatures(tmp_path: Path) -> None:
    sources = {"a": near_copies(4), "b": near_copies(5)}
    build_rows(tmp_path, sources, {"method": "minhash"})
    before = sorted(path.name for path in (tmp_path / ".sftdata-work" / "sign").iterdir())
    result = build_rows(tmp_path, sources, {"method": "minhash", "priority": ["b"], "max_copies": 2})
    assert sorted(path.name for path in (tmp_path / ".sftdata-work" / "sign").iterdir()) == before and len(before) == 2
    assert not any(source.startswith("b ") and evidence.startswith("a ") for source, evidence in gone(result))


def test_surplus_rows_of_a_real_dialogue_set_go_and_deliberate_ones_may_stay(tmp_path: Path) -> None:
    path = needs_shared("data", "chat", "huanhuan.json")
    rows = orjson.loads(path.read_bytes())
    records = Counter((row["instruction"], row["input"], row["output"]) for row in rows)
    assert sum(records.values()) - len(records) == 112
    result = build_rows(tmp_path, {"h": rows}, {})
    assert result.manifest["counts"]["resolve"]["dropped"] == 112
    result = build_rows(tmp_path, {"h": rows}, {"allow": ["你是谁？", "你好"]})
    assert result.manifest["counts"]["resolve"]["dropped"] == 112 - 98
    result = build_rows(tmp_path, {"h": rows}, {"method": "minhash"})
    dropped = [int(row["id"].partition("#")[2]) for row in ledger(result)]
    pairs = [(rows[n], rows[int(row["evidence"].partition("#")[2])]) for n, row in zip(dropped, ledger(result), strict=True)]
    equal = [one for one, other in pairs if one == other]
    assert len(equal) == 112 and len(pairs) - len(equal) <= 2
    words = [["".join(filter(str.isalnum, row["output"])) for row in pair] for pair in pairs]
    assert all(one == other for one, other in words), "they differ in punctuation at most"
