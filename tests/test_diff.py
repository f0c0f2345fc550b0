"""Two builds compared: which records fared differently, where their ways part, and who decided."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from build_support import write_small_recipe
from click.testing import CliRunner

from sftdata import build
from sftdata.cli import main
from sftdata.views.diff import Diff, diff


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diff")
    recipe = write_small_recipe(folder)
    build(recipe, out=folder / "a", workers=1)
    tokenizer = f"tokenizer.path={folder / 'a' / 'tokenizer'}"
    build(recipe, out=folder / "a", overrides=[tokenizer], workers=1)
    changes = ["sources.talk.clean=[unicode, {length: {min_chars: 10}}]", "clean=[]"]
    build(recipe, out=folder / "b", overrides=[tokenizer, *changes], workers=1, without=["faq.csv#7"])
    masked = "sources.talk.clean=[unicode, {slop: {actions: {ai_identity: mask_loss}}}]"
    build(recipe, out=folder / "c", overrides=[tokenizer, masked, "split.validation=0"], workers=1)
    return folder


def kinds(found: Diff) -> dict[tuple[str, str, str], list[str]]:
    return {(group.stage, group.before, group.after): [row.id for row in group.rows] for group in found.groups}


def test_a_build_is_the_same_as_itself(folder: Path) -> None:
    found = diff(folder / "a", folder / "a")
    assert not found.groups and all(found.same.values())
    assert found.num_same == 44 + 31, "every record, the quarantined ones too"


def test_diff_names_stage_and_rule_of_each_row(folder: Path) -> None:
    found = diff(folder / "a", folder / "b")
    ways = kinds(found)
    slop = [ids for (stage, before, _), ids in ways.items() if stage == "prepare" and "ai_identity, rule zh.as_an_ai" in before]
    assert len(slop) == 1 and len(slop[0]) == 1
    copies = [ids for (stage, before, _), ids in ways.items() if stage == "resolve" and "dedup duplicate, rule exact" in before]
    assert len(copies) == 1
    assert [ids for (_, _, after), ids in ways.items() if after == "dropped: without removed"] == [["faq.csv#7"]]
    assert found.same == {"recipe": False, "inputs": True, "code": False}
    assert sum(map(len, ways.values())) + found.num_same == 75


def test_diff_tells_marks_and_sides_of_the_split(folder: Path) -> None:
    ways = kinds(diff(folder / "a", folder / "c"))
    assert any(after.startswith("train; mask slop ai_identity") or "no_trained_token" in after for _, _, after in ways)
    moved = [key for key in ways if key[1:] == ("validation", "train")]
    assert moved == [("resolve", "validation", "train")] and ways[moved[0]]


def test_command_shows_and_prints_every_row_as_json(folder: Path) -> None:
    shown = CliRunner().invoke(main, ["diff", str(folder / "a"), str(folder / "b")])
    assert shown.exit_code == 0 and "records fared differently" in shown.output
    printed = json.loads(CliRunner().invoke(main, ["diff", str(folder / "a"), str(folder / "b"), "--json"]).stdout)
    rows = [row for group in printed["groups"] for row in group["rows"]]
    assert {"source", "id", "stage", "before", "after", "tokens_before", "tokens_after"} == set(rows[0])
    assert [stage["stage"] for stage in printed["stages"]] == ["prepare", "resolve", "tokenize", "plan"]


def test_a_record_of_one_build_alone_parts_at_the_input(folder: Path) -> None:
    recipe = write_small_recipe(folder / "less")
    path = folder / "less" / "talk" / "b.jsonl"
    path.write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[:5]) + "\n", encoding="utf-8")
    build(recipe, out=folder / "d", overrides=[f"tokenizer.path={folder / 'a' / 'tokenizer'}"], workers=1)
    ways = kinds(diff(folder / "a", folder / "d"))
    assert len(ways["input", "train", "absent"]) > 5
