"""Two published pipelines from raw records to rows: the same rows of the same tokens, through whole builds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from build_support import needs_shared, write_small_recipe

import sftdata
from sftdata.formatters.alpaca_blog import PROMPT, alpaca_blog
from sftdata.records import InvalidRecord


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_lines(path: Path, records: list[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()[:16]


def rows_of(folder: Path) -> tuple[list[tuple[list[int], list[int]]], list[list[tuple[str, int]]]]:
    """Return (ids, labels) of every row, and (source#number, tokens) of each of its segments."""
    split = sftdata.open_shards(folder).splits["train"]
    rows = [(row["input_ids"].tolist(), row["labels"].tolist()) for row in map(split.row, range(split.num_rows))]
    segments: list[list[tuple[str, int]]] = [[] for _ in rows]
    for place in pq.read_table(folder / ".sftdata" / "lineage.parquet").to_pylist():
        segments[place["row"]].append((f"{place['source']}#{place['id'].partition('#')[2]}", place["length"]))
    return rows, segments


@pytest.fixture(scope="module")
def blog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = read_lines(needs_shared("parity", "blog_modes", "public", "input.jsonl"))
    folder = tmp_path_factory.mktemp("blog")
    recipe = write_small_recipe(
        folder,
        tokenizer={"path": str(needs_shared("parity", "tokenizer-llama2")), "chat_template": "chatml"},
        sources=[{"name": "rows", "path": "rows.jsonl", "ingest": "jsonl", "format": "alpaca_blog"}],
        clean=[], split={"validation": 0.0}, mix={"shuffle": False}, limits={"max_drop": 1.0},
        tokenize={"sequence_len": 256, "train_on_inputs": True},
    )  # fmt: skip
    write_lines(folder / "rows.jsonl", [row["record"] for row in records])
    return recipe


@pytest.mark.parametrize("mode", ["padding", "packed", "concat"])
def test_rows_of_the_published_comparison_on_gpt2(blog: Path, mode: str) -> None:
    cases = read_lines(needs_shared("parity", "blog_modes", "public", "expected.jsonl"))
    cases = [case for case in cases if case["mode"] == mode]
    assert len(cases) == 3
    for case in cases:
        options = [f"pack.strategy={mode}", f"tokenize.sequence_len={case['max_length']}"]
        options += [] if mode == "packed" else ["pack.compat=original"]
        result = sftdata.build(blog, out=blog.parent / "out", overrides=options)
        rows, segments = rows_of(result.folder)
        numbered = [[[int(name.partition("#")[2]), tokens] for name, tokens in row] for row in segments]
        groups = numbered if mode == "packed" else [[number for number, _ in row] for row in numbered]
        assert groups == case["groups"] and [len(ids) for ids, _ in rows] == case["sequence_lengths"]
        assert digest([ids for ids, _ in rows]) == case["sequences_sha256"][:16]
        packing = result.manifest["splits"]["train"]["packing"]
        assert packing["num_split_samples"] == case["samples_split_across_sequences"]
        assert packing["num_tokens_lost"] == case["tokens_cut_by_truncation"]
        assert result.manifest["counts"]["plan"]["cut_rows"] == case["truncated_samples"]
        assert result.manifest["splits"]["train"]["tokens"] == case["real_tokens"]


def test_published_prompt_has_its_line_of_spaces_and_two_versions() -> None:
    record = {"instruction": "Name a tree.", "input": "", "output": "An oak."}
    user, assistant = alpaca_blog(record).turns
    assert user.content == PROMPT + "Name a tree." and PROMPT.endswith("request.\n    \n")
    assert (user.role, assistant.role, assistant.content) == ("user", "assistant", "An oak.")
    assert alpaca_blog(record, keep_empty_input=True).turns[0].content.endswith("Name a tree.. Here are the inputs: ")
    given = alpaca_blog({**record, "input": "in Spain"}).turns[0]
    assert given.content.endswith("Name a tree.. Here are the inputs: in Spain")
    assert [span.path for span in given.spans] == [(), ("instruction",), (), ("input",)]


@pytest.mark.parametrize("field", ["instruction", "input", "output"])
def test_published_prompt_needs_texts(field: str) -> None:
    with pytest.raises(InvalidRecord) as caught:
        alpaca_blog({"instruction": "a", "input": "b", "output": "c", field: 7})
    assert caught.value.reason == "field_type"


@pytest.fixture(scope="module")
def spliced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A recipe with one source for each category of the published records, and `source#number` → their id."""
    folder = tmp_path_factory.mktemp("spliced")
    inputs = read_lines(needs_shared("parity", "colossal_pretrain", "public", "input.jsonl"))
    expected = read_lines(needs_shared("parity", "colossal_pretrain", "public", "expected.jsonl"))
    categories = {row["id"]: row["seq_category"] for row in expected if row["max_length"] == 256 and "error" not in row}
    sources, names = [], {}
    for number, category in enumerate(sorted(set(categories.values()))):
        mine = [row for row in inputs if categories.get(row["id"]) == category]
        write_lines(folder / f"{number}.jsonl", [row["record"] for row in mine])
        names.update({f"c{number}#{place}": row["id"] for place, row in enumerate(mine)})
        source = {"name": f"c{number}", "path": f"{number}.jsonl", "ingest": "jsonl", "format": "source_target"}
        sources.append({**source, "category": category})
    recipe = write_small_recipe(
        folder, tokenizer={"path": str(needs_shared("parity", "tokenizer-llama2"))}, sources=sources, clean=[],
        split={"validation": 0.0}, mix={"strategy": "buckets", "bins": 1, "compat": "percent"}, seed=20240820,
        pack={"strategy": "splice", "compat": "original"}, limits={"max_drop": 1.0, "max_bad": 1.0},
        tokenize={"compat": "colossal_pretrain", "sequence_len": 256},
    )  # fmt: skip
    return recipe, names


def test_rows_of_the_published_splicing_script(spliced: tuple[Path, dict[str, str]]) -> None:
    recipe, names = spliced
    cases = read_lines(needs_shared("parity", "colossal_splice", "public", "expected.jsonl"))
    cases = [case for case in cases if case["sorted_by_category_length"] and case["tokenize_max_length"] == 256]
    cases = [case for case in cases if case["tokens_lost"]]
    assert len(cases) == 4 and sum(case["shuffle"] for case in cases) == 2
    for case in cases:
        options = [
            f"pack.num_packed_sequences={case['num_packed_sequences']}",
            f"mix.shuffle={str(case['shuffle']).lower()}",
        ]
        result = sftdata.build(recipe, out=recipe.parent / "out", overrides=options)
        rows, segments = rows_of(result.folder)
        assert [[names[name] for name, _ in row] for row in segments] == case["groups"]
        assert [digest(list(row)) for row in rows] == case["sequence_sha256"]
        assert result.manifest["splits"]["train"]["packing"]["num_tokens_lost"] == case["tokens_lost"]
        assert sftdata.verify(result.folder).problems == []
