"""Removing records by name: nothing of them is left, the ledger says so, and only what held them is made anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from build_support import file_bytes, run_command, write_small_recipe

from sftdata import build, verify, why
from sftdata.errors import DataError
from sftdata.executors.choice import scan_here
from sftdata.garbage import collect
from sftdata.pipeline import plan_build
from sftdata.recipe_loader import load_recipe
from sftdata.removing import Removals, read_ids
from sftdata.repairing import repair
from sftdata.scanning import list_inputs
from sftdata.sources import Piece

SECRET = "Quetzalcoatl Zyx the 7th"
IDS = ["a.jsonl#5", "talk b.jsonl#4"]


def write_recipe(folder: Path) -> Path:
    """Write the small recipe with a secret in a good, a bad (dropped for slop) and a quarantined record."""
    recipe = write_small_recipe(folder)
    for name, number in (("a.jsonl", 5), ("b.jsonl", 4)):
        path = folder / "talk" / name
        lines = path.read_text(encoding="utf-8").splitlines()
        lines[number] = json.dumps({"instruction": f"Who is {SECRET}?", "output": f"As an AI, I know {SECRET}."})
        if name == "a.jsonl":
            lines[number] = json.dumps({"instruction": f"Who is {SECRET}?", "output": f"{SECRET} keeps bees."})
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return recipe


def mentions(folder: Path) -> set[str]:
    """Return the files below a folder in which the secret stands."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            table = repr(pq.read_table(path).to_pydict()).encode() if path.suffix == ".parquet" else b""
            if SECRET.split()[0].encode() in path.read_bytes() + table:
                found.add(path.relative_to(folder).as_posix())
    return found


def entries(work: Path) -> set[Path]:
    return {path for path in work.glob("*/*") if path.is_dir()}


@pytest.fixture(scope="module")
def removed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, set[Path]]:
    """Build with all records, then without two; return the folder, the recipe and the entries of the first build."""
    folder = tmp_path_factory.mktemp("without")
    recipe = write_recipe(folder)
    build(recipe, out=folder / "out", workers=1)
    before = entries(folder / ".sftdata-work")
    assert ".sftdata/ledger.parquet" in mentions(folder / "out") and len(why(folder / "out", SECRET)) == 2
    build(recipe, out=folder / "out", workers=1, without=IDS)
    return folder / "out", recipe, before


def test_nothing_of_a_removed_record_is_left(removed: tuple[Path, Path, set[Path]]) -> None:
    out, _, before = removed
    work = out.parent / ".sftdata-work"
    assert not mentions(out)
    with pytest.raises(DataError, match="no record has"):
        why(out, SECRET)
    new = entries(work) - before
    assert len(new) > 4 and not any(mentions(entry) for entry in new)
    assert any(mentions(entry) for entry in before), "the old results hold it, until gc"
    collect(work)
    assert not mentions(work)


def test_ledger_says_what_was_removed(removed: tuple[Path, Path, set[Path]]) -> None:
    out, _, _ = removed
    for row_id in ("a.jsonl#5", "b.jsonl#4"):
        [life] = why(out, row_id)
        assert life.outcome == "dropped"
        assert [(event.step, event.action, event.reason, event.evidence) for event in life.events] == [
            ("without", "drop", "removed", "")
        ]
    assert verify(out).sound


def test_removing_again_changes_nothing_and_a_damaged_build_is_repaired(removed: tuple[Path, Path, set[Path]]) -> None:
    out, recipe, _ = removed
    before = file_bytes(out)
    assert build(recipe, out=out, workers=1, without=IDS[::-1]).unchanged
    (out / "README.md").write_text("gone", encoding="utf-8")
    assert repair(out, workers=1).damaged == ["README.md"]
    assert file_bytes(out) == before


def test_only_parts_with_the_records_run_again(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    tokenizer = build(recipe, out=tmp_path / "first", workers=1).folder / "tokenizer"
    loaded = load_recipe(recipe, overrides=[f"tokenizer.path={tokenizer}"])
    build(loaded, out=tmp_path / "out", workers=1)
    build(loaded, out=tmp_path / "out", workers=1, without=["a.jsonl#5"])
    plan = plan_build(loaded, out=tmp_path / "out", without=["a.jsonl#5", "b.jsonl#4"])
    doing = {(task.stage, task.name): task.action for task in plan}
    assert doing["prepare", "talk a.jsonl"] == doing["prepare", "faq faq.csv"] == "reuse"
    assert doing["prepare", "talk b.jsonl"] == "run"


def test_an_id_that_names_no_record_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    for wrong in ("a.jsonl#500", "nowhere.jsonl#1", "faq a.jsonl#5"):
        with pytest.raises(DataError, match=f"no record has the id '{wrong}'"):
            build(recipe, out=tmp_path / "out", workers=1, without=["a.jsonl#5", wrong])
    (tmp_path / "ids.txt").write_text("\n \n", encoding="utf-8")
    with pytest.raises(DataError, match="names no record"):
        read_ids(tmp_path / "ids.txt")


def test_command_takes_a_file_of_ids(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "ids.txt").write_text("\ufeffa.jsonl#5\r\n\na.jsonl#5\ntalk b.jsonl#4\n", encoding="utf-8")
    done = run_command("build", recipe.name, "--out", "out", "--without", "ids.txt", "--workers", 1, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "removed by name: 2 of those dropped" in done.stderr
    assert not mentions(tmp_path / "out")


def test_pieces_of_a_file_take_only_their_own_records(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path)).recipe
    [part, *_] = scan_here(list_inputs(recipe.sources, tmp_path, ()))
    pieces = [replace(part, file=replace(part.file, piece=Piece(0, 1, first, 0))) for first in (0, 10, 20)]
    removals = Removals([f"{part.file.name}#{number}" for number in (9, 10, 19, 25)], pieces)
    assert [removals.keys(piece) for piece in pieces] == [["9"], ["10", "19"], ["25"]]


def test_pieces_of_a_dump_take_the_records_of_each_table_that_they_hold(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path)).recipe
    [part, *_] = scan_here(list_inputs(recipe.sources, tmp_path, ()))
    numbers: list[dict[str, int]] = [{"a": 0}, {"a": 10, "b": 0}, {"b": 5}]
    cut = [Piece(0, 1, 10 * place, 0, None, {"numbers": found}) for place, found in enumerate(numbers)]
    pieces = [replace(part, file=replace(part.file, piece=piece)) for piece in cut]
    removals = Removals([f"{part.file.name}#{key}" for key in ("a/9", "a/10", "b/0", "b/4", "b/5")], pieces)
    assert [removals.keys(piece) for piece in pieces] == [["a/9"], ["a/10", "b/0", "b/4"], ["b/5"]]
