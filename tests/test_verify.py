"""A build is checked whole: one flipped bit in any file, a lost row or a wrong mask is found and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import sftdata
from sftdata.run_record import REPORT_FILE, RUN_FILE
from sftdata.sealing import sealed
from sftdata.views import verify as verifying


def test_sound_build_is_sound(small: Path) -> None:
    found = sftdata.verify(small)
    assert found.problems == [] and found.sound
    assert found.num_rows > 3 and found.num_tokens > found.num_trained > 500 and found.num_files > 10


def test_one_flipped_bit_in_any_file_is_found_and_named(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small, folder)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {path.relative_to(folder).as_posix() for path in files}
    assert {"manifest.json", RUN_FILE, REPORT_FILE, "README.md", "recipe.yaml", ".sftdata/lineage.parquet"} <= names
    for path in files:
        good = path.read_bytes()
        for place in (0, len(good) // 2, len(good) - 1):
            bad = bytearray(good)
            bad[place] ^= 0x10
            path.write_bytes(bad)
            problems = sftdata.verify(folder).problems
            assert problems, f"byte {place} of {path.name}"
            assert any(path.name in problem for problem in problems), problems
        path.write_bytes(good)
    assert sftdata.verify(folder).problems == []


def test_missing_and_unknown_files_are_named(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small, folder)
    (folder / "train" / "state.json").unlink()
    (folder / "train" / "extra.arrow").write_bytes(b"x")
    problems = " ".join(sftdata.verify(folder).problems)
    assert "train/state.json" in problems and "train/extra.arrow: is not in the manifest" in problems


def test_counts_that_do_not_add_up_are_found(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small, folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["counts"]["prepare"]["kept"] -= 1
    manifest["counts"]["resolve"]["rows"] -= 1
    (folder / "manifest.json").write_bytes(sealed(manifest))
    problems = sftdata.verify(folder).problems
    assert len(problems) == 1 and "rows in prepare" in problems[0]


def batch(labels: list[int], seq_lengths: list[int]) -> verifying.Columns:
    ids = np.arange(10, 10 + len(labels), dtype=np.int32)
    offsets = np.array([0, len(labels)], dtype=np.int32)
    return {
        "input_ids": (offsets, ids),
        "labels": (offsets, np.array(labels, dtype=np.int32)),
        "seq_lengths": (np.array([0, len(seq_lengths)], dtype=np.int32), np.array(seq_lengths, dtype=np.int32)),
    }


@pytest.mark.parametrize(
    ("labels", "seq_lengths", "limit", "problem"),
    [
        ([-100, 11, -100, 13], [2, 2], 4, None),
        ([-100, 11, 12, 13], [2, 2], 4, "row 7: the first token of a document is trained"),
        ([-100, 99, -100, 13], [2, 2], 4, "row 7: a label is neither -100 nor its token"),
        ([-100, 11, -100, 13], [2, 3], 4, "rows from 7: seq_lengths do not add up to the rows"),
        ([-100, 11, -100, 13], [2, 2], 3, "row 7: 4 tokens, sequence_len is 3"),
    ],
)
def test_every_rule_of_a_mask_is_checked(labels: list[int], seq_lengths: list[int], limit: int, problem: str | None) -> None:
    found = list(verifying._batch_problems(batch(labels, seq_lengths), limit, 7, published=False))
    assert found == ([] if problem is None else [problem])


def test_published_labels_may_train_the_first_token_of_a_document() -> None:
    labels = [-100, 11, 12, 13]
    assert list(verifying._batch_problems(batch(labels, [2, 2]), 4, 7, published=False))
    assert not list(verifying._batch_problems(batch(labels, [2, 2]), 4, 7, published=True))


def test_folder_without_a_build_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(sftdata.DataError, match="no such folder"):
        sftdata.verify(tmp_path / "nothing")
