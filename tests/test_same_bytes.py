"""The same recipe and inputs give the same bytes: for any number of workers, any environment, and after any crash."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from build_support import file_bytes, run_command, write_small_recipe

import sftdata

NUM_KILLS = int(os.environ.get("SFTDATA_NUM_KILLS", "10"))
"""Operations at which a build is killed in this suite; `make faults` kills it at every one."""


def test_build_is_the_same_for_two_workers_another_hash_seed_and_locale(tmp_path: Path, small: Path) -> None:
    recipe = write_small_recipe(tmp_path / "elsewhere")
    done = run_command(
        "build", recipe, "--out", "out", "--workers", 2, folder=tmp_path, PYTHONHASHSEED="7", LC_ALL="C", TZ="Asia/Tokyo"
    )
    assert done.returncode == 0, done.stderr
    assert sftdata.open_shards(tmp_path / "out").splits["train"].num_rows > 3
    assert file_bytes(tmp_path / "out") == file_bytes(small)


def test_build_is_the_same_from_a_symlinked_folder_with_files_written_in_another_order(tmp_path: Path, small: Path) -> None:
    write_small_recipe(tmp_path / "raw")
    for name in ("b.jsonl", "a.jsonl"):
        path = tmp_path / "raw" / "talk" / name
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    (tmp_path / "link").symlink_to(tmp_path / "raw")
    sftdata.build(tmp_path / "link" / "recipe.yaml", out=tmp_path / "out")
    assert file_bytes(tmp_path / "out") == file_bytes(small)


def _operations(folder: Path) -> list[str]:
    """Return the names of all storage operations of an undisturbed build."""
    log = folder / "operations.log"
    recipe = write_small_recipe(folder / "raw")
    done = run_command("build", recipe, "--out", folder / "out", folder=folder, SFTDATA_FAILPOINT_LOG=str(log))
    assert done.returncode == 0, done.stderr
    return log.read_text().splitlines()


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The storage operations of a build, in order."""
    return _operations(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("part", range(NUM_KILLS))
def test_build_killed_and_run_again_gives_the_same_bytes(
    tmp_path: Path, small: Path, operations: list[str], part: int
) -> None:
    number = 1 + part * len(operations) // NUM_KILLS
    recipe = write_small_recipe(tmp_path / "raw")
    killed = run_command("build", recipe, "--out", "out", folder=tmp_path, SFTDATA_FAILPOINT=f"any:{number}:kill")
    assert killed.returncode == -signal.SIGKILL, f"operation {number} of {len(operations)} was not reached"
    if (tmp_path / "out").exists():
        assert not sftdata.verify(tmp_path / "out").problems, "a folder that is there is complete"
    again = run_command("build", recipe, "--out", "out", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert file_bytes(tmp_path / "out") == file_bytes(small)
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".out.") and path.name != ".out.lock"]
    assert left == [], "nothing of the killed build is left beside the folder"


@pytest.mark.parametrize("action", ["enospc", "eio"])
def test_build_on_a_failing_disk_says_so_and_leaves_the_old_folder(
    tmp_path: Path, operations: list[str], action: str
) -> None:
    recipe = write_small_recipe(tmp_path / "raw")
    first = run_command("build", recipe, "--out", "out", "--set", "seed=1", folder=tmp_path)
    assert first.returncode == 0, first.stderr
    before = file_bytes(tmp_path / "out")
    last_write = max(number for number, line in enumerate(operations, 1) if line.startswith("write"))
    failing = f"any:{last_write - 40}:{action}"
    failed = run_command("build", recipe, "--out", "out", "--work-dir", "fresh", folder=tmp_path, SFTDATA_FAILPOINT=failing)
    assert failed.returncode == 74, failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1 and "Traceback" not in failed.stderr
    assert file_bytes(tmp_path / "out") == before
