"""Gather opens as many files as it may, whatever the size of a build, and copies the same tokens with few as with many."""

from __future__ import annotations

from pathlib import Path

import pytest
from build_support import file_bytes, write_small_recipe

import sftdata
from sftdata import token_sources


def test_shards_are_the_same_where_every_part_is_closed_for_the_next(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    map_batches = token_sources.map_batches
    monkeypatch.setattr(token_sources, "MAX_OPEN_ROWS", 1)
    monkeypatch.setattr(token_sources, "map_batches", lambda path: opened.append(path) or map_batches(path))
    built = sftdata.build(write_small_recipe(tmp_path / "raw"), out=tmp_path / "out", workers=1)
    assert len(opened) > 2 * len(set(opened)) == 6, "parts were closed and opened again"
    assert file_bytes(built.folder) == file_bytes(small)
