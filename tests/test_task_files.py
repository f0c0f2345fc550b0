"""Tasks written into a file and run by number, in processes that know nothing of each other: the bytes of an ordinary build."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from build_support import REPOSITORY, file_bytes, run_command, write_small_recipe

import sftdata
from sftdata.errors import DataError, RecipeError, WorkerError
from sftdata.task_files import run_written_tasks, write_tasks


def start_share(tasks: Path, index: int, of: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sftdata", "run-task", str(tasks), "--index", str(index), "--of", str(of)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, cwd=tasks.parent)


def test_stages_run_by_number_in_several_processes_give_the_same_bytes(tmp_path: Path, small: Path) -> None:
    recipe, tasks, out = write_small_recipe(tmp_path / "raw"), tmp_path / "tasks.jsonl", tmp_path / "out"
    stages = []
    while (written := write_tasks(recipe, tasks, out=out)).num_tasks:
        stages.append((written.stage, written.num_tasks))
        shares = [start_share(tasks, index, 2) for index in range(2)]
        assert [share.wait(timeout=120) for share in shares] == [0, 0]
    assert stages == [("prepare", 3), ("tokenize", 3), ("gather", 2)]
    result = sftdata.build(recipe, out=out)
    assert result.num_reused == result.num_tasks == 11
    assert file_bytes(out) == file_bytes(small)


def test_command_writes_the_tasks_that_are_left_and_runs_the_one_that_is_named(tmp_path: Path) -> None:
    recipe = write_small_recipe(tmp_path)
    shown = run_command("build", recipe, "--out", "out", "--write-tasks", "t.jsonl", "--json", folder=tmp_path)
    assert json.loads(shown.stdout) == {"file": "t.jsonl", "stage": "prepare", "num_tasks": 3}
    head, *lines = (tmp_path / "t.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 and max(map(len, lines)) < 1024 and json.loads(head)["installation"]["pyarrow"]
    done = run_command("run-task", "t.jsonl", "--index", 1, folder=tmp_path)
    assert done.returncode == 0 and "prepare talk b.jsonl: done" in done.stderr
    again = run_command("build", recipe, "--out", "out", "--write-tasks", "t.jsonl", folder=tmp_path)
    assert "t.jsonl: 2 tasks of prepare" in again.stderr


def test_wrong_numbers_and_files_are_one_line(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    write_tasks(write_small_recipe(tmp_path), tasks, out=tmp_path / "out")
    for index, of in ((3, None), (2, 2), (-1, None)):
        with pytest.raises(DataError, match=f"no task {index}; give an index from 0 to {of - 1 if of else 2}"):
            run_written_tasks(tasks, index, of=of)
    text = tasks.read_text(encoding="utf-8")
    tasks.write_text(text[: text.rindex('{"stage"')], encoding="utf-8")
    with pytest.raises(DataError, match="holds 2 of its 3 tasks; write it again"):
        run_written_tasks(tasks, 0)
    (tmp_path / "other").write_text("no JSON")
    with pytest.raises(DataError, match="is no file of tasks; write one with"):
        run_written_tasks(tmp_path / "other", 0)


def test_tasks_of_another_installation_or_with_code_from_outside_are_refused(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    write_tasks(write_small_recipe(tmp_path), tasks, out=tmp_path / "out")
    head, *lines = tasks.read_text(encoding="utf-8").splitlines()
    changed = json.loads(head)
    changed["installation"]["pyarrow"] = "1.0"
    tasks.write_text("\n".join([json.dumps(changed), *lines]), encoding="utf-8")
    with pytest.raises(WorkerError, match=r"planned with 1\.0"):
        run_written_tasks(tasks, 0)
    tasks.write_text("\n".join([json.dumps({**changed, "modules": ["my_steps"]}), *lines]), encoding="utf-8")
    with pytest.raises(RecipeError, match="run code from my_steps; allow that with --allow-code"):
        run_written_tasks(tasks, 0)
