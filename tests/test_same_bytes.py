"""The same recipe and inputs give the same bytes: for any number of workers, any environment and order of files."""

from __future__ import annotations

from pathlib import Path

from build_support import file_bytes, run_command, write_small_recipe

import sftdata


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
