"""The plan holds a few bytes for each row: measured on a million rows, as `benchmarks/plan.py` makes them."""

from __future__ import annotations

import importlib.util
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from build_support import REPOSITORY

from sftdata import planning
from sftdata.row_log import Rows

NUM_ROWS = 1_000_000
HELD = 18
"""Bytes that the rows take: length 4, trained 4, side of the split 1, identity 8, whether weighted 1."""
PEAK = 24
"""Bytes at the worst moment, sorting and packing included; 10⁹ rows need 1 GB of memory for each of them."""
PEAK_OF_OTHER_MIXES = 50


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("plan_benchmark", REPOSITORY / "benchmarks" / "plan.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def parts(benchmark: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Tokenized parts of a million rows in all."""
    work = tmp_path_factory.mktemp("plan")
    yield [benchmark.make_part(work, number) for number in range(NUM_ROWS // benchmark.PART_ROWS)]


def plan(folder: Path, spec: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return what the plan says of itself, and the peak of the memory that was asked for meanwhile."""
    tracemalloc.start()
    summary = planning.plan(folder, spec)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return summary, peak


@pytest.mark.parametrize("strategy", ["best_fit", "padding"])
def test_plan_takes_few_bytes_a_row(
    benchmark: ModuleType, parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    held: list[Rows] = []
    accept = planning.accept
    monkeypatch.setattr(planning, "accept", lambda rows, *others: held.append(rows) or accept(rows, *others))
    summary, peak = plan(tmp_path, benchmark.specification(parts[0].parents[1], parts, strategy))
    assert summary["counts"]["kept"] == summary["splits"]["train"]["samples"] == NUM_ROWS
    assert sum(column.nbytes for column in held[0]) / NUM_ROWS == pytest.approx(HELD, abs=0.01)
    assert HELD < peak / NUM_ROWS < PEAK


@pytest.mark.parametrize(
    "strategy, mix", [("best_fit", {"strategy": "weighted", "by": "tokens"}), ("padding", {"group_by_length": 8})]
)
def test_other_mixes_take_little_more(
    benchmark: ModuleType, parts: list[Path], tmp_path: Path, strategy: str, mix: dict[str, Any]
) -> None:
    spec = benchmark.specification(parts[0].parents[1], parts, strategy)
    spec["mix"].update(mix)
    spec.update(sources=["a", "a", "b", "b"], weights=[{"name": "a", "weight": 2}, {"name": "b", "weight": 1}])
    if "strategy" not in mix:
        spec["weights"] = [{"name": "a"}, {"name": "b"}]
    summary, peak = plan(tmp_path, spec)
    assert summary["counts"]["rows"] == NUM_ROWS and peak / NUM_ROWS < PEAK_OF_OTHER_MIXES
