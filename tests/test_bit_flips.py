"""One flipped bit anywhere in a build is found, and never ends in a crash; in the work folder it only costs a task."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from build_support import file_bytes, write_small_recipe

import sftdata

NUM_FLIPS = int(os.environ.get("SFTDATA_NUM_FLIPS", "100"))
"""Bits flipped in this suite; `make faults` flips 500."""

CLASSES = {
    "shard": "*/data-*.arrow",
    "split metadata": "*/*.json",
    "tokenizer": "tokenizer/*",
    "side table": ".sftdata/*.parquet",
    "plan": ".sftdata/plan/*",
    "run record": ".sftdata/run.json",
    "origins": ".sftdata/work.json",
    "manifest": "manifest.json",
    "card": "README.md",
    "recipe": "recipe.yaml",
    "report": "report.html",
    "root metadata": "dataset_dict.json",
}
"""File class → its files in a build."""


def files_of(folder: Path) -> dict[str, list[Path]]:
    """Return the files of a build by class; every file has one."""
    found = {name: sorted(path for path in folder.glob(pattern) if path.is_file()) for name, pattern in CLASSES.items()}
    found["split metadata"] = [path for path in found["split metadata"] if path.parent.name in ("train", "validation")]
    assert all(found.values()) and sum(map(len, found.values())) == sum(path.is_file() for path in folder.rglob("*"))
    return found


def flip(path: Path, bit: int) -> bytes:
    """Flip one bit of a file and return what it held before; a hard link keeps its other name, which changes too."""
    good = path.read_bytes()
    bad = bytearray(good)
    bad[bit // 8] ^= 1 << bit % 8
    path.write_bytes(bad)
    return good


def test_every_flipped_bit_of_a_build_is_found(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small, folder)
    by_class = files_of(folder)
    draw = random.Random(20)
    found: Counter[str] = Counter()
    for number in range(NUM_FLIPS):
        name = list(by_class)[number % len(by_class)]
        path = draw.choice(by_class[name])
        bit = draw.randrange(8 * path.stat().st_size)
        good = flip(path, bit)
        problems = sftdata.verify(folder).problems
        assert any(path.name in problem for problem in problems), f"bit {bit} of {path.name}: {problems}"
        found[name] += 1
        path.write_bytes(good)
    assert sftdata.verify(folder).sound
    print(f"\nbit flips: {sum(found.values())} of {NUM_FLIPS} found, in {len(found)} file classes, 0 crashes")
    assert sum(found.values()) == NUM_FLIPS and set(found) == set(CLASSES)


def test_flipped_bits_in_the_work_folder_are_found_and_their_results_made_again(tmp_path: Path, small: Path) -> None:
    recipe = write_small_recipe(tmp_path / "raw")
    work = tmp_path / "work"
    sftdata.build(recipe, out=tmp_path / "out", work_dir=work)
    stages = sorted(path.name for path in work.iterdir() if path.name != "history")
    assert len(stages) == 6
    draw = random.Random(6)
    for stage in stages:
        path = draw.choice(sorted(path for path in (work / stage).glob("*/*") if path.stat().st_size))
        good = flip(path, draw.randrange(8 * path.stat().st_size))
        shutil.rmtree(tmp_path / "out")
        sftdata.build(recipe, out=tmp_path / "out", work_dir=work)
        assert path.read_bytes() == good, f"{stage} {path.name} was made again"
        assert file_bytes(tmp_path / "out") == file_bytes(small)


@pytest.mark.parametrize("bit", [0, 5, 400, 2000])
def test_flipped_bit_in_the_history_costs_nothing(tmp_path: Path, bit: int) -> None:
    recipe = write_small_recipe(tmp_path / "raw")
    sftdata.build(recipe, out=tmp_path / "out", work_dir=tmp_path / "work")
    flip(tmp_path / "work" / "history" / "small.json", bit)
    again = sftdata.build(recipe, out=tmp_path / "out", work_dir=tmp_path / "work")
    assert again.unchanged and again.num_reused == again.num_tasks
