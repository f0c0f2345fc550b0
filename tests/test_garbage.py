"""The work folder is cleaned of what nothing uses, and of nothing else; never under a running build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from build_support import write_small_recipe

import sftdata
from sftdata import storage
from sftdata.errors import DamagedError, DataError, LockedError
from sftdata.garbage import Collected, collect


def entries(work: Path) -> set[str]:
    return {path.relative_to(work).as_posix() for path in work.glob("*/*") if path.is_dir()}


def unused(found: Collected) -> dict[str, int]:
    return {stage.stage: stage.num_unused for stage in found.stages if stage.num_unused}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe that was built, changed, and built again into the same folder."""
    path = write_small_recipe(tmp_path / "raw")
    sftdata.build(path, out=tmp_path / "shards" / "small", overrides=["seed=1"])
    sftdata.build(path, out=tmp_path / "shards" / "small")
    return path


def test_results_of_the_build_before_are_removed_and_those_of_the_last_stay(recipe: Path, tmp_path: Path) -> None:
    work = tmp_path / "shards" / ".sftdata-work"
    before = entries(work)
    rehearsed = collect(work, dry_run=True)
    assert rehearsed.dry_run and unused(rehearsed) and entries(work) == before
    assert unused(collect(work)) == unused(rehearsed)
    assert len(before) - len(entries(work)) == sum(unused(rehearsed).values()) > 2
    assert unused(collect(work)) == {}
    again = sftdata.build(recipe, out=tmp_path / "shards" / "small")
    assert again.unchanged and again.num_reused == again.num_tasks > 5


def test_sizes_are_those_of_the_files(recipe: Path, tmp_path: Path) -> None:
    work = tmp_path / "shards" / ".sftdata-work"
    for stage in collect(work, dry_run=True).stages:
        files = [path.stat() for path in (work / stage.stage).rglob("*") if path.is_file()]
        assert stage.num_bytes == sum(status.st_size for status in files) > 0
        assert 0 <= stage.unused_bytes <= stage.num_bytes and stage.num_entries == len(list((work / stage.stage).iterdir()))


def test_builds_beside_the_work_folder_keep_their_results(recipe: Path, tmp_path: Path) -> None:
    sftdata.build(recipe, out=tmp_path / "shards" / "few", limit=10)
    work = tmp_path / "shards" / ".sftdata-work"
    assert unused(collect(work))
    for out, limit in (("few", 10), ("small", None)):
        again = sftdata.build(recipe, out=tmp_path / "shards" / out, limit=limit)
        assert again.unchanged and again.num_reused == again.num_tasks


def test_named_recipes_alone_keep_their_results(recipe: Path, tmp_path: Path) -> None:
    other = write_small_recipe(tmp_path / "other", name="other", seed=5)
    sftdata.build(other, out=tmp_path / "shards" / "other")
    work = tmp_path / "shards" / ".sftdata-work"
    assert unused(collect(work, [recipe])) and unused(collect(work, [recipe])) == {}
    kept, gone = (sftdata.build(path, out=tmp_path / "new", work_dir=work) for path in (recipe, other))
    assert kept.num_reused == kept.num_tasks and gone.num_reused < gone.num_tasks


def test_recipe_that_was_never_finished_keeps_what_it_has(recipe: Path, tmp_path: Path) -> None:
    work = tmp_path / "shards" / ".sftdata-work"
    (work / "history" / "small.json").unlink()
    (tmp_path / "shards" / "small").rename(tmp_path / "elsewhere")
    collect(work, [recipe])
    again = sftdata.build(recipe, out=tmp_path / "shards" / "small")
    assert again.num_reused == again.num_tasks > 5


def test_nothing_is_removed_while_a_build_uses_the_folder(recipe: Path, tmp_path: Path) -> None:
    work = tmp_path / "shards" / ".sftdata-work"
    before = entries(work)
    with storage.in_use(work), pytest.raises(LockedError, match="a build is using this folder"):
        collect(work)
    assert entries(work) == before and unused(collect(work))


def test_leftovers_of_killed_tasks_go_and_other_files_stay(recipe: Path, tmp_path: Path) -> None:
    work = tmp_path / "shards" / ".sftdata-work"
    leftover = work / "prepare" / f".{'0' * 32}.tmp-1"
    leftover.mkdir()
    (work / "prepare" / "notes.txt").write_text("mine")
    (work / "mine").mkdir()
    collect(work)
    assert not leftover.exists() and (work / "prepare" / "notes.txt").exists() and (work / "mine").is_dir()


def test_folder_that_is_no_work_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no work folder"):
        collect(tmp_path)


def test_history_that_cannot_be_read_removes_nothing(recipe: Path, tmp_path: Path) -> None:
    work = tmp_path / "shards" / ".sftdata-work"
    before = entries(work)
    (work / "history" / "small.json").write_text(json.dumps(["no", "history"]))
    with pytest.raises(DamagedError, match=r"small\.json: cannot be read"):
        collect(work)
    assert entries(work) == before
