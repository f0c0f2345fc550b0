"""JSON Lines give back the texts that were tokenized, or leave them out: rendered again they are the tokens of the shards."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from build_support import write_small_recipe
from test_export import documents

import sftdata
from sftdata.errors import DataError
from sftdata.exporting import export
from sftdata.records import Example, Turn
from sftdata.tokenizers import files as tokenizer_files
from sftdata.tokenizers.encoder import Encoder


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rendered(shards: Path, record: dict[str, Any]) -> list[int]:
    """Return the tokens of an exported sample, with the build's own tokenizer and template."""
    folder = sftdata.open_shards(shards).tokenizer_folder
    eos = tokenizer_files.read(folder).special("eos_token")
    if "messages" in record:
        text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in record["messages"])
    else:
        text = record.get("text", "") + record.get("prompt", "") + record.get("completion", "") + eos
    ids: list[int] = Encoder(folder, engine="tokenizers").tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def exported(shards: Path, out: Path, split: str = "train") -> list[dict[str, Any]]:
    export(shards, to="jsonl", out=out)
    return [record for path in sorted(out.glob(f"{split}*.jsonl")) for record in lines(path)]


def test_every_sample_of_the_build_is_there_to_the_letter(small: Path, tmp_path: Path) -> None:
    records = exported(small, tmp_path / "out")
    expected = [ids for ids, _ in documents(small, "train")]
    assert sorted(rendered(small, record) for record in records) == sorted(expected) and len(records) > 50
    assert {tuple(record) for record in records} == {("messages",), ("prompt", "completion")}
    talk = [record["messages"] for record in records if "messages" in record]
    assert [turn["role"] for turn in talk[0]] == ["user", "assistant"]
    assert all(turns[0]["content"].endswith("几更天了？") and turns[1]["content"].endswith("窗外有雨。") for turns in talk)


def test_dialogues_come_in_the_order_of_the_shards(small: Path, tmp_path: Path) -> None:
    export(small, to="jsonl", out=tmp_path / "out")
    dialogues = [rendered(small, record) for record in lines(tmp_path / "out" / "train.jsonl")]
    assert dialogues == [ids for ids, _ in documents(small, "train") if ids in dialogues] and len(dialogues) > 20


def test_sample_that_is_repeated_is_there_as_often(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path / "raw", mix={"strategy": "weighted"}, pack={"strategy": "splice"})
    value = json.loads(recipe.read_text())
    for source, epochs in zip(value["sources"], (2, 1), strict=True):
        source["epochs"] = epochs
    recipe.write_text(json.dumps(value))
    shards = sftdata.build(recipe, out=tmp_path / "shards").folder
    records = Counter(str(record) for record in exported(shards, tmp_path / "out"))
    assert {(2 if "messages" in record else 1, count) for record, count in records.items()} == {(1, 1), (2, 2)}


def test_sharegpt_says_the_same_in_its_own_words(small: Path, tmp_path: Path) -> None:
    export(small, to="jsonl", out=tmp_path / "openai")
    export(small, to="jsonl", out=tmp_path / "sharegpt", form="sharegpt")
    ours = lines(tmp_path / "openai" / "train.jsonl")
    speakers = {"human": "user", "gpt": "assistant"}
    theirs = [
        {"messages": [{"role": speakers[turn["from"]], "content": turn["value"]} for turn in record["conversations"]]}
        for record in lines(tmp_path / "sharegpt" / "train.jsonl")
    ]
    assert theirs == ours and len(ours) > 20
    entry = json.loads((tmp_path / "sharegpt" / "dataset_info.json").read_text())["small_train"]
    assert entry["columns"] == {"messages": "conversations"} and entry["file_name"] == "train.jsonl"


def test_datasets_loads_the_dialogues(small: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    export(small, to="jsonl", out=tmp_path / "out")
    dataset = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert list(dataset["train"]["messages"]) == [record["messages"] for record in lines(tmp_path / "out" / "train.jsonl")]
    pairs = load_dataset(str(tmp_path / "out"), "pair", cache_dir=str(tmp_path / "cache"))["train"]
    assert pairs.to_list() == lines(tmp_path / "out" / "train.pairs.jsonl")


@pytest.mark.parametrize("strategy", ["packed", "concat", "padding"])
def test_samples_that_go_on_in_the_next_row_are_joined(strategy: str, small: Path, tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path / "raw", pack={"strategy": strategy}, tokenize={"sequence_len": 64})
    shards = sftdata.build(recipe, out=tmp_path / "shards").folder
    found = sftdata.open_shards(shards).manifest["splits"]["train"]
    assert (found["segments"] > found["samples"]) == (strategy == "packed")
    assert {str(record) for record in exported(shards, tmp_path / "out")} == {
        str(record) for record in exported(small, tmp_path / "whole")
    }


LONG = [
    ("user", "一更"),
    ("assistant", "到了"),
    ("user", "二更"),
    ("assistant", "也到了"),
    ("user", "三更" * 40),
    ("assistant", "还没"),
]


def write_long_recipe(folder: Path, excess_length: str) -> Path:
    """Write a recipe of dialogues and plain texts that are all longer than a row."""
    recipe = write_small_recipe(folder)
    rows = [{"messages": [{"role": role, "content": f"{n}{text}"} for role, text in LONG]} for n in range(20)]
    (folder / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = "".join(json.dumps({"text": f"{n}夜，" + "窗外有雨。" * 50}) + "\n" for n in range(20))
    (folder / "texts.jsonl").write_text(texts)
    value = json.loads(recipe.read_text())
    value["sources"] = [
        {"name": "long", "path": "long.jsonl", "ingest": "jsonl", "format": "messages"},
        {"name": "texts", "path": "texts.jsonl", "ingest": "jsonl", "format": "text"},
    ]
    value["tokenize"] = {"sequence_len": 64, "excess_length": excess_length}
    value["limits"] = {"max_drop": 1.0}
    value["split"] = {}
    recipe.write_text(json.dumps(value))
    return recipe


@pytest.mark.parametrize(
    ("excess_length", "dialogues", "texts"),
    [("whole_turns", 20, 0), ("split", 20, 20), ("truncate_end", 20, 0), ("truncate_start", 0, 0)],
)
def test_what_was_cut_inside_a_turn_is_counted_and_never_altered(
    tmp_path: Path, excess_length: str, dialogues: int, texts: int
) -> None:
    shards = sftdata.build(write_long_recipe(tmp_path / "raw", excess_length), out=tmp_path / "shards").folder
    done = export(shards, to="jsonl", out=tmp_path / "out")
    counts = done.counts["train"]
    assert (counts["dialogues"], counts["texts"]) == (dialogues, texts)
    samples = sftdata.open_shards(shards).manifest["counts"]["plan"]["kept"]
    assert samples > 0 and (counts["cut"] > 0) == (dialogues + texts < samples or excess_length == "truncate_start")
    assert any("are left out" in note for note in done.notes) == (counts["cut"] > 0)
    for record in lines(tmp_path / "out" / "train.jsonl") if dialogues else []:
        number = record["messages"][0]["content"].removesuffix(LONG[0][1])
        assert [(turn["role"], turn["content"]) for turn in record["messages"]] == [(r, number + t) for r, t in LONG[:4]]
    for record in lines(tmp_path / "out" / "train.text.jsonl") if texts else []:
        assert record["text"].partition("夜，")[2] == "窗外有雨。" * 50


def test_messages_that_are_not_trained_say_so(tmp_path: Path) -> None:
    recipe = write_long_recipe(tmp_path / "raw", "drop")
    turns = [{"role": role, "content": text} for role, text in LONG[:4]]
    context = {**turns[1], "train": False}
    rows = [{"messages": [turns[0], context, turns[2], {**turns[3], "content": f"{n}更"}]} for n in range(9)]
    (tmp_path / "raw" / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shards = sftdata.build(recipe, out=tmp_path / "shards").folder
    for record in exported(shards, tmp_path / "out"):
        assert [turn.get("weight") for turn in record["messages"]] == [None, 0, None, None]
    done = export(shards, to="jsonl", out=tmp_path / "sharegpt", form="sharegpt")
    assert done.counts["train"]["unsaid_flags"] == done.counts["train"]["dialogues"] == 9


def test_missing_or_damaged_work_folder_is_an_error_with_its_cure(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path / "raw")
    shards = sftdata.build(recipe, out=tmp_path / "shards", work_dir=tmp_path / "work").folder
    entry = next((tmp_path / "work" / "prepare").iterdir()) / "documents.arrow"
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 1
    entry.write_bytes(data)
    with pytest.raises(DataError, match="does not hold the texts"):
        export(shards, to="jsonl", out=tmp_path / "out")
    sftdata.build(recipe, out=tmp_path / "shards", work_dir=tmp_path / "work")
    assert export(shards, to="jsonl", out=tmp_path / "out").counts["train"]["dialogues"] > 20
    shutil.move(tmp_path / "work", tmp_path / "moved")
    with pytest.raises(DataError, match="--work-dir"):
        export(shards, to="jsonl", out=tmp_path / "again")
    assert export(shards, to="jsonl", out=tmp_path / "again", work_dir=tmp_path / "moved").files


def test_exporter_knows_all_that_a_turn_can_hold() -> None:
    """A field that is added to a turn must be written here too, or be refused: nothing may be lost without a word."""
    assert Turn._fields == ("role", "spans", "joint", "train", "weight", "parts", "reasoning", "reasoning_flags", "fields")
    assert Example._fields == ("turns", "chat", "shape", "tools", "variables", "verbatim")


TOOL = {"type": "function", "function": {"name": "watch", "parameters": {"type": "object", "properties": {}}}}
CALL = {"type": "function", "function": {"name": "watch", "arguments": {"of": "night"}}}


@pytest.mark.parametrize(("form", "num_records"), [("openai", 2), ("sharegpt", 1)])
def test_tools_calls_and_reasoning_are_written_or_left_out_with_a_count(
    tmp_path: Path, form: str, num_records: int
) -> None:
    (tmp_path / "chat.jinja").write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>"
        "{% endif %}{{ m.content or '' }}{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments }}]"
        "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    turns = [
        {"role": "user", "content": "几更了？"},
        {"role": "assistant", "content": "看看。", "reasoning_content": "要看更漏。", "tool_calls": [CALL]},
        {"role": "tool", "content": "三更"},
        {"role": "assistant", "content": "三更了。"},
    ]
    records = [{"messages": turns, "tools": [TOOL]}, {"messages": [turns[0], turns[3]]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    source = {"name": "rows", "path": "rows.jsonl", "ingest": "jsonl", "format": "messages"}
    tokenizer = {"train": {"vocab_size": 400}, "chat_template": "chat.jinja"}
    recipe = write_small_recipe(tmp_path, sources=[source], tokenizer=tokenizer, split={"validation": 0.0})
    built = sftdata.build(recipe, out=tmp_path / "out")
    result = export(built.folder, to="jsonl", out=tmp_path / form, form=form)
    written = lines(tmp_path / form / "train.jsonl")
    assert len(written) == num_records and result.counts["train"]["unsayable"] == 2 - num_records
    if form == "openai":
        [full] = [record for record in written if "tools" in record]
        assert full["messages"] == turns and full["tools"] == [TOOL]
