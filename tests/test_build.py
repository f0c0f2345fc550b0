"""What a build makes of a recipe: rows as the records said, masks, accounting, reuse, limits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from build_support import REPOSITORY, file_bytes, needs_shared, write_small_recipe

import sftdata
from sftdata import storage, strict_yaml
from sftdata.errors import DataError, LockedError, RecipeError
from sftdata.pipeline import plan_build
from sftdata.recipe_loader import load_recipe
from sftdata.schemas import IGNORE_INDEX
from sftdata.views.decoding import Decoder
from sftdata.views.tables import LEDGER_TABLE, read_rows


def segments(folder: Path) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Return for every record in the shards its runs of (kind, text), read from the shards alone."""
    shards = sftdata.open_shards(folder)
    decoder = Decoder(shards)
    found = {}
    for row in pq.read_table(folder / ".sftdata" / "lineage.parquet").to_pylist():
        columns = shards.splits[row["split"]].row(row["row"])
        lengths = columns["seq_lengths"] if "seq_lengths" in columns else [len(columns["input_ids"])]
        first = int(sum(lengths[: row["segment"]]))
        piece = slice(first, first + row["length"])
        runs = decoder.runs(columns["input_ids"][piece], columns["labels"][piece])
        found[row["source"], row["id"]] = [(run.kind, run.text) for run in runs]
    return found


def chatml(user: str, assistant: str) -> list[tuple[str, str]]:
    return [
        ("control", "<|im_start|>"), ("context", f"user\n{user}"), ("control", "<|im_end|>"), ("context", "\n"),
        ("control", "<|im_start|>"), ("context", "assistant\n"), ("trained", assistant), ("trained control", "<|im_end|>"),
        ("context", "\n"),
    ]  # fmt: skip


def test_every_row_is_what_its_record_says_and_only_the_answer_is_trained(bundled: Path) -> None:
    rows = segments(bundled)
    lines = (REPOSITORY / "recipes/data/zhenhuan/dialogue.jsonl").read_text(encoding="utf-8").splitlines()
    records = [line for line in lines if line.strip()]
    edited = {row["id"] for row in read_rows(sftdata.open_shards(bundled), LEDGER_TABLE, [("action", "=", "edit")])}
    compared = 0
    for number, line in enumerate(records):
        row_id = f"dialogue.jsonl#{number}"
        if ("dialogue", row_id) in rows and row_id not in edited and number != 336:  # 336 holds a control token as text
            record = json.loads(line)
            user = "\n".join(filter(None, [record["instruction"], record["input"]]))
            assert rows["dialogue", row_id] == chatml(user, record["output"])
            compared += 1
    assert compared > 350


def test_plain_text_is_trained_but_for_its_first_token_and_ends_in_eos(bundled: Path) -> None:
    rows = {key: runs for key, runs in segments(bundled).items() if key[0] == "pages"}
    assert len(rows) == 11
    for runs in rows.values():
        assert [kind for kind, _ in runs] == ["context", "trained", "trained control"]
        assert runs[-1][1] == "<|im_end|>"
        assert len(runs[0][1]) <= 4, "one token of context, which no target crosses into"


def test_huanhuan_is_exact_with_a_public_tokenizer(tmp_path: Path) -> None:
    data = needs_shared("data", "chat", "huanhuan.json")
    tokenizer = needs_shared("parity", "tokenizer-llama2")
    recipe = {
        "name": "huanhuan",
        "tokenizer": {"path": str(tokenizer), "chat_template": "chatml"},
        "sources": [{"name": "d", "path": str(data), "ingest": "jsonl", "format": "instruction"}],
        "tokenize": {"sequence_len": 512},
        "pack": {"strategy": "best_fit"},
    }
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    folder = sftdata.build(tmp_path / "r.yaml", out=tmp_path / "out").folder
    rows = segments(folder)
    records = json.loads(data.read_text(encoding="utf-8"))
    assert len(rows) == len(records) == 3729
    for number, record in enumerate(records):
        user = "\n".join(filter(None, [record["instruction"], record["input"]]))
        assert rows["d", f"huanhuan.json#{number}"] == chatml(user, record["output"])


def test_output_opens_with_datasets_and_the_tokenizer_with_transformers(
    bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    num_rows = sftdata.open_shards(bundled).splits["train"].num_rows
    from_disk = datasets.load_from_disk(str(bundled))
    loaded = datasets.load_dataset(str(bundled), cache_dir=str(tmp_path))
    assert from_disk["train"].num_rows == loaded["train"].num_rows == num_rows > 0
    assert from_disk["train"][0] == loaded["train"][0]
    assert set(loaded) == {"train", "validation"}
    tokenizer = AutoTokenizer.from_pretrained(bundled / "tokenizer")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "你"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\n你<|im_end|>\n<|im_start|>assistant\n"


def test_first_token_of_every_segment_is_untrained_and_rows_are_not_padded(bundled: Path) -> None:
    split = sftdata.open_shards(bundled).splits["train"]
    num_borders = 0
    for index in range(split.num_rows):
        row = split.row(index)
        assert len(row["input_ids"]) == row["seq_lengths"].sum() <= 1024
        borders = np.cumsum(row["seq_lengths"]) - row["seq_lengths"]
        assert (row["labels"][borders] == IGNORE_INDEX).all()
        num_borders += len(borders)
    assert num_borders > split.num_rows


def test_planted_defects_end_as_their_list_says(bundled: Path) -> None:
    outcomes = {
        "dialogue.jsonl#29": "dropped", "dialogue.jsonl#156": "dropped", "dialogue.jsonl#64": "dropped",
        "faq.csv#60": "dropped", "story-06.html#0": "dropped", "chats.sql#chats/7": "dropped",
        "dialogue.jsonl#72": "quarantined", "dialogue.jsonl#205": "quarantined", "dialogue.jsonl#279": "quarantined",
        "story-07.html#0": "quarantined", "faq.csv#20": "quarantined", "faq.csv#44": "quarantined",
        "chats.sql#chats/28": "quarantined",
    }  # fmt: skip
    for row_id, outcome in outcomes.items():
        [life] = sftdata.why(bundled, row_id)
        assert life.outcome == outcome, row_id
    kept = [f"dialogue.jsonl#{number}" for number in (3, 43, 84, 10, 50, 49, 337, 164, 334, 336)] + ["chats.sql#chats/41"]
    for row_id in kept:
        [life] = sftdata.why(bundled, row_id)
        assert life.outcome in ("trained", "validation"), row_id


def test_manifest_gives_rows_of_every_file_and_fingerprints_of_recipe_inputs_and_code(bundled: Path) -> None:
    manifest = json.loads((bundled / "manifest.json").read_text(encoding="utf-8"))
    assert next(iter(manifest)) == "format_version" and list(manifest)[-1] == "xxh3"
    assert all(list(entry) == ["path", "rows", "bytes", "xxh3"] for entry in manifest["files"])
    rows = {entry["path"]: entry["rows"] for entry in manifest["files"]}
    for split, entry in manifest["splits"].items():
        assert entry["rows"] == sum(rows[f"{split}/{name}"] for name in entry["files"]) > 0
    for name in ("ledger", "lineage", "quarantine"):
        assert rows[f".sftdata/{name}.parquet"] == pq.read_table(bundled / ".sftdata" / f"{name}.parquet").num_rows > 0
    assert rows["README.md"] == 0 and {"recipe", "inputs", "code"} <= set(manifest["fingerprints"])


def test_recipe_in_the_folder_is_the_recipe(bundled: Path) -> None:
    written = strict_yaml.load(bundled / "recipe.yaml").value
    again = REPOSITORY / "recipes" / "zhenhuan.yaml"
    loaded = load_recipe(again).recipe
    assert loaded.model_dump(exclude={"output"}) == type(loaded).model_validate(written).model_dump(exclude={"output"})


def test_no_path_of_this_machine_is_in_the_folder(bundled: Path) -> None:
    named = [name for name, data in file_bytes(bundled).items() if str(REPOSITORY).encode() in data]
    assert named == []


def test_second_build_runs_nothing_and_another_length_tokenizes_nothing(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path)
    first = sftdata.build(recipe, out=tmp_path / "out")
    assert first.num_reused == 0 and not first.unchanged
    second = sftdata.build(recipe, out=tmp_path / "out")
    assert second.unchanged and second.num_reused == second.num_tasks
    plan = plan_build(recipe, out=tmp_path / "out", overrides=["tokenize.sequence_len=128"])
    run = {task.stage for task in plan if task.action == "run"}
    assert run == {"plan"} and any(task.why == "changed: tokenize (sequence_len)" for task in plan)


def test_added_file_is_prepared_alone_and_moves_no_row_between_splits(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path, tokenizer={"path": "tok", "chat_template": "chatml"})
    other = sftdata.build(write_small_recipe(tmp_path / "other"), out=tmp_path / "learned").folder
    shutil.copytree(other / "tokenizer", tmp_path / "tok")
    before = sftdata.build(recipe, out=tmp_path / "out")
    sides = {key: side for side, key in _sides(before.folder)}
    row = {"instruction": "雪停了么？", "output": "停了，院里白得晃眼。"}
    (tmp_path / "talk" / "c.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    plan = plan_build(recipe, out=tmp_path / "out")
    assert [task.name for task in plan if task.stage == "prepare" and task.action == "run"] == ["talk c.jsonl"]
    after = sftdata.build(recipe, out=tmp_path / "out")
    moved = {key: side for side, key in _sides(after.folder)}
    assert {key: moved[key] for key in sides} == sides
    assert len(moved) == len(sides) + 1 and set(sides.values()) == {"train", "validation"}


def _sides(folder: Path) -> list[tuple[str, tuple[str, str]]]:
    rows = pq.read_table(folder / ".sftdata" / "lineage.parquet").to_pylist()
    return [(row["split"], (row["source"], row["id"])) for row in rows]


def test_damaged_output_and_damaged_results_are_made_again(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path)
    folder = sftdata.build(recipe, out=tmp_path / "out").folder
    good = file_bytes(folder)
    shard = folder / "train" / "data-00000-of-00001.arrow"
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)  # also the kept result, which is the same file
    assert sftdata.verify(folder).problems
    assert not sftdata.build(recipe, out=tmp_path / "out").unchanged
    assert file_bytes(folder) == good


@pytest.mark.parametrize("strategy", ["padding", "best_fit", "concat", "packed"])
def test_every_packing_keeps_every_token(tmp_path: Path, strategy: str) -> None:
    changes = {"pack": {"strategy": strategy}, "mix": {"strategy": "concat"}, "tokenize": {"sequence_len": 64}}
    recipe = write_small_recipe(tmp_path, **changes)
    result = sftdata.build(recipe, out=tmp_path / "out")
    assert sftdata.verify(result.folder).problems == []
    counts = result.manifest["counts"]
    assert sum(split["tokens"] for split in counts["gather"].values()) == counts["plan"]["kept_tokens"] > 1000
    columns = result.manifest["splits"]["train"]["columns"]
    assert columns == ["input_ids", "labels", "attention_mask" if strategy == "padding" else "seq_lengths"]


def test_unpacked_validation_has_one_length_a_row(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path, pack={"strategy": "best_fit", "validation": "padding"})
    folder = sftdata.build(recipe, out=tmp_path / "out").folder
    split = sftdata.open_shards(folder).splits["validation"]
    assert split.num_rows > 1
    assert all(len(split.row(index)["seq_lengths"]) == 1 for index in range(split.num_rows))
    assert sftdata.verify(folder).problems == []


def test_small_shards_hold_the_rows_in_order(tmp_path: Path, small: Path) -> None:
    recipe = write_small_recipe(tmp_path, shards={"max_bytes": 5000})
    cut = sftdata.open_shards(sftdata.build(recipe, out=tmp_path / "out").folder).splits["train"]
    whole = sftdata.open_shards(small).splits["train"]
    assert len(cut.files) > 2 and cut.num_rows == whole.num_rows
    for index in range(whole.num_rows):
        assert np.array_equal(cut.row(index)["input_ids"], whole.row(index)["input_ids"])


def test_split_without_rows_does_not_keep_load_dataset_from_the_others(tmp_path: Path) -> None:
    import datasets

    recipe = write_small_recipe(tmp_path, split={"validation": 1e-9})
    folder = sftdata.build(recipe, out=tmp_path / "out").folder
    assert sftdata.open_shards(folder).splits["validation"].num_rows == 0
    assert set(datasets.load_from_disk(str(folder))) == {"train", "validation"}
    assert set(datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))) == {"train"}


def test_archive_is_read_member_by_member(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path)
    for name in ("one", "two"):
        shutil.make_archive(str(tmp_path / name), "zip", tmp_path / "talk")
    folders = [
        sftdata.build(recipe, overrides=[f"sources.talk.path={tmp_path / path}"], out=tmp_path / "out" / path).folder
        for path in ("talk", "one.zip", "two.zip")
    ]
    found = [{row["id"] for row in pq.read_table(folder / ".sftdata" / "lineage.parquet").to_pylist()} for folder in folders]
    assert "a.jsonl#0" in found[0] and "one.zip!/b.jsonl#0" in found[1]
    assert found[0] == {row_id.removeprefix("one.zip!/") for row_id in found[1]} and len(found[1]) == len(found[2])


def test_limit_reads_the_first_records_of_every_source(tmp_path: Path) -> None:
    result = sftdata.build(write_small_recipe(tmp_path), out=tmp_path / "out", limit=25)
    sources = result.manifest["sources"]
    assert {name: source["prepare"]["records"] for name, source in sources.items()} == {"talk": 25, "faq": 25}
    assert [file["records"] for file in sources["talk"]["files"]] == [20, 5]


def test_second_build_of_the_same_folder_at_the_same_time_is_refused(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path)
    with storage.lock(tmp_path / "out"), pytest.raises(LockedError, match="is building this folder"):
        sftdata.build(recipe, out=tmp_path / "out")


def test_too_many_bad_rows_stop_the_build_and_name_one(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path)
    broken = "\n".join(["{broken"] * 12)
    (tmp_path / "talk" / "c.jsonl").write_text(broken)
    with pytest.raises(DataError, match=r"prepare: 15 of 87 rows cannot be used .*json_syntax 13.*max_bad.*the first: talk"):
        sftdata.build(recipe, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert sftdata.build(recipe, out=tmp_path / "out", overrides=["limits.max_bad=1.0"]).folder.is_dir()


def test_too_many_dropped_rows_stop_the_build(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path, limits={"max_drop": 0.01})
    with pytest.raises(DataError, match=r"1 of 75 rows are dropped \(slop:ai_identity 1; by rule: zh.as_an_ai 1\); limits"):
        sftdata.build(recipe, out=tmp_path / "out")
    change = "sources.talk.clean=[]"
    with pytest.raises(DataError, match=r"resolve: .*\(dedup:duplicate 1\)"):
        sftdata.build(recipe, out=tmp_path / "out", overrides=[change])
    result = sftdata.build(recipe, out=tmp_path / "out", overrides=[change, "clean=[]"], without=["faq.csv#1"])
    assert result.manifest["counts"]["prepare"]["dropped"] == 1, "what was asked for is not counted against the limit"


def test_source_without_records_is_an_error(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path)
    (tmp_path / "faq.csv").write_text("question,answer\n")
    with pytest.raises(DataError, match="source 'faq' gave no record"):
        sftdata.build(recipe, out=tmp_path / "out")


def test_output_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="holds other files"):
        sftdata.build(write_small_recipe(tmp_path), out=tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_input_that_changes_while_it_is_read_stops_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_small_recipe(tmp_path)
    from sftdata import pipeline

    def change(task: object) -> dict[str, object]:
        with open(tmp_path / "faq.csv", "a") as file:
            file.write("late,row\n")
        return original(task)

    original = pipeline.perform
    monkeypatch.setattr(pipeline, "perform", change)
    with pytest.raises(DataError, match="changed while it was read"):
        sftdata.build(recipe, out=tmp_path / "out")


@pytest.mark.parametrize("arguments", [{"workers": 0}, {"limit": 0}, {"workers": "2"}, {"limit": 1.5}])
def test_numbers_below_one_and_what_is_no_number_are_refused(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="at least 1"):
        sftdata.build(write_small_recipe(tmp_path), out=tmp_path / "out", **arguments)


def test_rule_packs_of_a_recipe_are_relative_to_it_and_part_of_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_small_recipe(tmp_path / "recipes")
    pack = tmp_path / "recipes" / "own.yaml"
    rule = {
        "id": "own.rain", "category": "refusal", "source": "own", "literal": ["窗外有雨"], "action": "drop_sample",
        "must_fire": ["窗外有雨"], "must_not_fire": ["晴"],
    }  # fmt: skip
    rules = json.dumps([rule], ensure_ascii=False)
    pack.write_text(f"id: own\nversion: 1\nlanguage: zh\nrules: {rules}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    change = "sources.talk.clean=[{slop: {extra_packs: [own.yaml]}}]"
    result = sftdata.build(recipe, out="out", overrides=[change, "limits.max_drop=1.0"])
    assert result.manifest["counts"]["prepare"]["drop:slop:refusal"] == 41
    pack.write_text(pack.read_text(encoding="utf-8").replace("own.rain", "own.wet"), encoding="utf-8")
    plan = plan_build(recipe, out="out", overrides=[change, "limits.max_drop=1.0"])
    fates = {(task.action, task.why) for task in plan if task.name.startswith("talk ")}
    assert fates == {("run", "changed: clean 1 slop (assets)")}
