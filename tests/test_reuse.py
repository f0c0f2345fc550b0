"""What a build takes over from those before it: exactly what does not depend on what changed, and it says why."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from build_support import file_bytes, write_small_recipe

import sftdata
from sftdata import storage
from sftdata.errors import DataError
from sftdata.pipeline import plan_build
from sftdata.work import Read, Task, read_entry, run_task

NUM_FILES = 12


@pytest.fixture
def many(tmp_path: Path, small: Path) -> Path:
    """A recipe with many files and a fixed tokenizer, built."""
    shutil.copytree(small / "tokenizer", tmp_path / "tok")
    recipe = write_small_recipe(tmp_path, tokenizer={"path": "tok", "chat_template": "chatml"})
    for number in range(NUM_FILES):
        write_rows(tmp_path, number)
    sftdata.build(recipe, out=tmp_path / "out")
    return recipe


def write_rows(folder: Path, number: int, *more: dict[str, str]) -> None:
    rows = [{"instruction": f"{number}-{row}", "output": f"It is {number * row}, says {number}."} for row in range(5)]
    lines = [json.dumps(row) for row in (*rows, *more)]
    (folder / "talk" / f"many-{number:02d}.jsonl").write_text("\n".join(lines) + "\n")


def test_edited_file_is_redone_alone(many: Path) -> None:
    write_rows(many.parent, 7, {"instruction": "And then?", "output": "Then it rained."})
    plan = plan_build(many, out=many.parent / "out")
    assert [(task.name, task.why) for task in plan if task.action == "run"] == [("talk many-07.jsonl", "changed: bytes")]
    result = sftdata.build(many, out=many.parent / "out")
    made = ["prepare", "resolve", "tokenizer", "tokenize", "plan", "gather train", "gather validation"]
    assert result.num_tasks - result.num_reused == len(made)


def test_option_of_a_cleaner_that_changes_nothing_redoes_prepare_alone(many: Path) -> None:
    before = sftdata.build(many, out=many.parent / "out").manifest
    overrides = ["sources.talk.clean=[unicode, slop, {length: {min_chars: 1}}]"]
    plan = plan_build(many, out=many.parent / "out", overrides=overrides)
    assert {(task.stage, task.why) for task in plan if task.action == "run"} == {("prepare", "changed: clean 3 length")}
    result = sftdata.build(many, out=many.parent / "out", overrides=overrides)
    assert result.num_tasks - result.num_reused == NUM_FILES + 2
    assert not result.unchanged and result.manifest["fingerprint"] != before["fingerprint"]


def test_cleaner_that_takes_back_what_an_edit_added_finds_the_results_from_before(many: Path) -> None:
    write_rows(many.parent, 7, {"instruction": "Short?", "output": "No"})
    assert not sftdata.build(many, out=many.parent / "out").unchanged
    overrides = ["sources.talk.clean=[unicode, slop, {length: {min_chars: 3}}]"]
    result = sftdata.build(many, out=many.parent / "out", overrides=overrides)
    assert result.manifest["counts"]["prepare"]["drop:length:too_short"] == 1
    assert result.num_tasks - result.num_reused == NUM_FILES + 2, "prepare, and nothing after it"


def test_learned_tokenizer_that_an_edit_does_not_change_has_no_other_file_tokenized_again(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path)
    sftdata.build(recipe, out=tmp_path / "out")
    path = tmp_path / "talk" / "a.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("{broken", "{Broken"), encoding="utf-8")
    result = sftdata.build(recipe, out=tmp_path / "out")
    assert result.num_tasks - result.num_reused <= len(["prepare"])


def test_built_again_is_what_is_built_anew(many: Path) -> None:
    write_rows(many.parent, 7, {"instruction": "And then?", "output": "Then it rained."})
    again = sftdata.build(many, out=many.parent / "out").folder
    anew = sftdata.build(many, out=many.parent / "new" / "out").folder
    assert file_bytes(again) == file_bytes(anew)


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"01x3456789")])
def test_result_of_a_file_that_changed_meanwhile_is_not_kept(tmp_path: Path, change: Callable[[Path], object]) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"0123456789")
    read = Read(str(path), 2, 4, storage.file_digest(path, 2, 4))
    task = Task("prepare", "rows", "f" * 32, str(tmp_path), {}, (read,))

    def body(folder: Path, spec: dict[str, object]) -> dict[str, object]:
        change(path)
        return {}

    with pytest.raises(DataError, match="rows: changed while it was read; run the build again"):
        run_task(task, body)
    assert read_entry(task.entry) is None and list((tmp_path / "prepare").iterdir()) == []


def test_result_of_a_file_that_changed_elsewhere_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"0123456789")
    reads = (Read(str(path), 2, 4, storage.file_digest(path, 2, 4)), Read(str(path), 0, None, "", storage.stamp(path)))
    assert run_task(Task("prepare", "rows", "e" * 32, str(tmp_path), {}, reads), lambda folder, spec: {}) == {}
    path.write_bytes(b"0123456789x")
    assert run_task(Task("prepare", "rows", "f" * 32, str(tmp_path), {}, reads[:1]), lambda folder, spec: {}) == {}
    with pytest.raises(DataError):
        run_task(Task("prepare", "rows", "d" * 32, str(tmp_path), {}, reads), lambda folder, spec: {})
