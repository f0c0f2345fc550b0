"""A damaged build is made whole again byte for byte, or stays as it is with an error that says why."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from build_support import file_bytes, write_small_recipe

import sftdata
from sftdata.errors import DamagedError, DataError
from sftdata.repairing import repair

SHARD = "train/data-00000-of-00001.arrow"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A build with its raw files and its work folder beside it, to be damaged."""
    return sftdata.build(write_small_recipe(tmp_path / "raw"), out=tmp_path / "shards").folder


def flip(path: Path, bit: int = 3) -> None:
    """Change one bit in the middle of a file, in place: under every name that the file has."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ (1 << bit)]))


def test_sound_build_is_left_alone(built: Path) -> None:
    before = (built / "manifest.json").stat().st_mtime_ns
    assert repair(built).damaged == []
    assert (built / "manifest.json").stat().st_mtime_ns == before


def test_every_file_is_repaired_when_it_is_damaged(built: Path) -> None:
    good = file_bytes(built)
    names = sorted(path.relative_to(built).as_posix() for path in built.rglob("*") if path.is_file())
    names.remove(".sftdata/run.json")  # it alone knows where the recipe lies
    names.remove("manifest.json")  # it alone knows whether the others are whole
    assert len(names) >= 20 and SHARD in names
    for damaged in (["manifest.json"], [SHARD], names[0::3], names[1::3], names[2::3]):
        for name in damaged:
            flip(built / name)
        done = repair(built)
        assert sorted(done.damaged) == sorted(damaged)
        assert file_bytes(built) == good, damaged
        num_shards = sum(name.endswith(".arrow") and "/data-" in name for name in damaged)
        assert done.num_tasks - done.num_reused == num_shards, "shards share their bytes with the work folder"


def test_missing_files_come_back_together(built: Path) -> None:
    good = file_bytes(built)
    for name in (SHARD, "recipe.yaml", ".sftdata/ledger.parquet"):
        (built / name).unlink()
    shutil.rmtree(built / "tokenizer")
    assert len(repair(built).damaged) > 5
    assert file_bytes(built) == good


def test_damaged_run_record_needs_the_recipe(built: Path) -> None:
    flip(built / ".sftdata/run.json")
    with pytest.raises(DamagedError, match="--recipe"):
        repair(built)
    assert repair(built, recipe=built.parent / "raw" / "recipe.yaml").damaged == [".sftdata/run.json"]
    assert sftdata.verify(built).sound


def test_build_without_its_work_folder_is_repaired_from_the_raw_files(built: Path) -> None:
    good = file_bytes(built)
    flip(built / SHARD)
    shutil.rmtree(built.parent / ".sftdata-work")
    done = repair(built)
    assert done.damaged == [SHARD] and done.num_reused == 0 < done.num_tasks
    assert file_bytes(built) == good


@pytest.mark.parametrize("name", [SHARD, "manifest.json"])
def test_changed_input_is_an_error_and_changes_nothing(built: Path, name: str) -> None:
    flip(built / name)
    before = file_bytes(built)
    with (built.parent / "raw" / "faq.csv").open("a") as file:
        file.write("one more?,yes\n")
    with pytest.raises(DamagedError, match="gives another build now"):
        repair(built)
    assert file_bytes(built) == before
    assert [path.name for path in built.parent.glob(".shards.tmp-*")] == []


def test_limited_build_is_repaired_as_it_was(tmp_path: Path) -> None:
    built = sftdata.build(write_small_recipe(tmp_path / "raw"), out=tmp_path / "shards", limit=20).folder
    good = file_bytes(built)
    flip(built / SHARD)
    assert repair(built).damaged == [SHARD]
    assert file_bytes(built) == good


@pytest.mark.parametrize(
    "changes",
    [
        {"pack": {"strategy": "packed"}},
        {"pack": {"strategy": "padding"}, "mix": {"strategy": "curriculum"}},
        {"pack": {"strategy": "splice"}, "mix": {"strategy": "weighted", "budget": 3000}},
        {"clean": [{"length": {"min_chars": 2}}, {"dedup": {"max_copies": 2}}], "train": {"model": {"model_type": "llama"}}},
    ],
)
def test_resolved_recipe_gives_the_same_build(tmp_path: Path, changes: dict[str, object]) -> None:
    built = sftdata.build(write_small_recipe(tmp_path / "raw", **changes), out=tmp_path / "shards", overrides=["seed=7"]).folder
    good = file_bytes(built)
    (built / "README.md").unlink()
    assert repair(built).damaged == ["README.md"]
    assert file_bytes(built) == good


def test_unknown_files_are_not_removed(built: Path) -> None:
    flip(built / SHARD)
    (built / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt: is not part of the build"):
        repair(built)
    assert (built / "notes.txt").read_text() == "mine"
