"""Records that cost workers their life: they are found, quarantined as `environment`, remembered, and nothing else is lost."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from build_support import file_bytes, run_command

import sftdata
from sftdata.environment import MAX_LEFT_OUT, LostTaskError, pin, read_pin
from sftdata.errors import DamagedError, WorkerError
from sftdata.work import Task

STEPS = '''
import inspect
import os
import signal

from sftdata.ingestors.jsonl import jsonl
from sftdata.formatters.instruction import instruction
from sftdata.registry import cleaner, formatter, ingestor


def harmful(text: str, marker: str) -> bool:
    return marker in text and "HARMLESS" not in os.environ


@cleaner
def clean(text: str) -> str:
    """Die of one text, and eat the memory for another."""
    if harmful(text, "kills"):
        os.kill(os.getpid(), signal.SIGKILL)
    if harmful(text, "swells"):
        bytearray(1 << 40)
    return text


@ingestor(suffixes=(".jsonl",))
def read(file):
    """Die of reading one record."""
    for record in jsonl(file):
        if harmful(record.fields["output"], "unreadable"):
            os.kill(os.getpid(), signal.SIGKILL)
        yield record


@formatter
def form(record):
    """Die of formatting one record, but only when it is tokenized."""
    if harmful(record["output"], "late") and any(frame.function == "tokenize_part" for frame in inspect.stack()):
        os.kill(os.getpid(), signal.SIGKILL)
    return instruction(record)
'''

OUTPUTS = {"cleaned": {7: "It kills.", 11: "It swells."}, "reading": {20: "It is unreadable."}, "formed": {3: "It is late."}}
LEFT_OUT = {
    ("cleaned", "cleaned.jsonl#7", "prepare"),
    ("cleaned", "cleaned.jsonl#11", "prepare"),
    ("reading", "reading.jsonl#20", "prepare"),
    ("formed", "formed.jsonl#3", "tokenize"),
}


def write_recipe(folder: Path) -> Path:
    """Write three sources of 30 records, of which some are deadly, the steps that they are deadly to, and a recipe."""
    folder.mkdir()
    (folder / "deadly.py").write_text(STEPS)
    for name, deadly in OUTPUTS.items():
        rows = [{"instruction": f"{name} {n}?", "output": deadly.get(n, f"It is {n} in {name}.")} for n in range(30)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    steps: dict[str, dict[str, Any]] = {"cleaned": {"clean": ["deadly:clean"]}, "reading": {"ingest": "deadly:read"}}
    common = {"ingest": "jsonl", "format": "deadly:form"}
    sources = [{"name": name, "path": f"{name}.jsonl", **common, **steps.get(name, {})} for name in OUTPUTS]
    recipe = {
        "name": "deadly",
        "tokenizer": {"train": {"vocab_size": 300}, "chat_template": "chatml"},
        "sources": sources,
        "tokenize": {"sequence_len": 128},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    return path


def build(recipe: Path, workers: int = 2, **environment: str) -> str:
    """Build and return what was said; it must succeed."""
    options = ("--out", recipe.parent / "out", "--workers", workers, "--allow-code")
    done = run_command("build", recipe, *options, folder=recipe.parent, **environment)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def deadly(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The recipe, built, and what the build said."""
    recipe = write_recipe(tmp_path_factory.mktemp("deadly") / "recipe")
    return recipe, build(recipe)


def test_deadly_records_are_quarantined_and_all_others_kept(deadly: tuple[Path, str]) -> None:
    recipe, said = deadly
    folder = recipe.parent / "out"
    manifest = sftdata.open_shards(folder).manifest
    rows = pq.read_table(folder / ".sftdata" / "ledger.parquet").to_pylist()
    assert {(row["source"], row["id"], row["stage"]) for row in rows if row["reason"] == "environment"} == LEFT_OUT
    quarantine = pq.read_table(folder / ".sftdata" / "quarantine.parquet").to_pylist()
    why = {row["id"]: row["place"] for row in quarantine if row["reason"] == "environment"}
    assert "ran out of memory" in why["cleaned.jsonl#11"] and "SIGKILL" in why["cleaned.jsonl#7"]
    assert "all from here on" in why["reading.jsonl#20"]
    kept = Counter(row["source"] for row in pq.read_table(folder / ".sftdata" / "lineage.parquet").to_pylist())
    assert kept == {"cleaned": 28, "reading": 20, "formed": 29}
    assert [path.name for path in recipe.parent.glob(".sftdata-work/*/.*")] == []
    assert manifest["reproducible"] is False and "not reproducible" in said
    assert sftdata.verify(folder).problems == []


def test_next_build_leaves_out_the_same_records_until_the_pins_are_deleted(deadly: tuple[Path, str]) -> None:
    recipe, _ = deadly
    work = recipe.parent / ".sftdata-work"
    first = file_bytes(recipe.parent / "out")
    entry = max((work / "tokenize").iterdir(), key=lambda path: (path / "quarantine.arrow").stat().st_size)
    (entry / "entry.json").unlink()
    assert "is up to date" in build(recipe, workers=1, HARMLESS="1")
    assert file_bytes(recipe.parent / "out") == first
    assert len(list((work / "environment").iterdir())) == 3
    shutil.rmtree(work / "environment")
    assert "not reproducible" not in build(recipe, workers=1, HARMLESS="1")
    manifest = sftdata.open_shards(recipe.parent / "out").manifest
    assert manifest["reproducible"] is True and manifest["counts"]["plan"]["kept"] == 90


def test_task_that_goes_on_losing_its_worker_stops_the_build(tmp_path: Path) -> None:
    task = Task("prepare", "talk a.jsonl", "f" * 32, str(tmp_path), {})
    pin(LostTaskError(task, "hung"))
    for number in range(MAX_LEFT_OUT):
        left_out = read_pin(tmp_path, "f" * 32)
        assert left_out is not None and len(left_out) == number
        task = Task("prepare", "talk a.jsonl", "e" * 32, str(tmp_path), {"left_out": left_out, "pin": "f" * 32})
        pin(LostTaskError(task, "hung", f"handle {number}"))
    task = replace(task, spec={"left_out": read_pin(tmp_path, "f" * 32), "pin": "f" * 32})
    with pytest.raises(WorkerError, match=r"prepare talk a.jsonl: 6 records cost their worker its life .*handle 0: hung"):
        pin(LostTaskError(task, "hung", "handle 9"))


def test_task_without_a_record_to_leave_out_stops_the_build(tmp_path: Path) -> None:
    pinned = {"left_out": {"handle 3": "hung"}, "pin": "f" * 32}
    for stage, spec, place in (("plan", {}, ""), ("prepare", pinned, ""), ("prepare", pinned, "handle 3")):
        with pytest.raises(WorkerError, match=f"{stage} all: the worker hung, and again"):
            pin(LostTaskError(Task(stage, "all", "e" * 32, str(tmp_path), spec), "hung", place))
    assert list(tmp_path.iterdir()) == []


def test_damaged_pin_is_said_with_its_cure(tmp_path: Path) -> None:
    pin(LostTaskError(Task("prepare", "a", "f" * 32, str(tmp_path), {}), "hung"))
    [path] = (tmp_path / "environment").iterdir()
    path.write_bytes(path.read_bytes().replace(b"prepare", b"tokenize"))
    with pytest.raises(DamagedError, match="delete it, then the records"):
        read_pin(tmp_path, "f" * 32)
