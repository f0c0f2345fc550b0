"""The READMEs: both say the same, and what they show is run as it stands, from top to bottom, in one empty folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest
from build_support import RECIPES, REPOSITORY

import sftdata
from sftdata.cli import main

FOLDER = "shards/lighthouse"
"""The build that the README speaks of."""


class Block(NamedTuple):
    """A fenced block: ```language name."""

    language: str
    name: str
    text: str


def read(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a Markdown text."""
    return [Block(*found) for found in re.findall(r"^```(\w+) ?(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def headings(text: str) -> list[str]:
    """Return the headings with their marks; a `#` inside a block is none."""
    return re.findall(r"^#+ .*$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)


def section(text: str, number: int) -> str:
    """Return section `number` from 1, in the order of the second-level headings."""
    return re.split(r"^## ", text, flags=re.MULTILINE)[number]


def without_words(block: Block) -> list[str]:
    """Return the lines of a block without what is translated: comments, and the words beside names of files."""
    lines = block.text.splitlines()
    if block.language == "text":
        return [line.split()[0] for line in lines]
    return [re.sub(r"\s+# .*$", "", line) for line in lines]


README = read("README.md")
BLOCKS = blocks(README)
MAKEFILE = read("Makefile")


@dataclass
class Shown:
    """A command with the output that the README shows, and what it gave."""

    command: str
    fails: bool = False
    output: str = ""
    result: subprocess.CompletedProcess[str] | None = None


@dataclass
class Played:
    """The folder in which everything was run, and all that was run."""

    folder: Path
    shown: list[Shown] = field(default_factory=list)


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False
    )


def run_command(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command; `-P` leaves the current folder out of the path of modules, as the installed command does."""
    program, *arguments = shlex.split(command)
    assert program in ("sftdata", "diff"), command
    return run([sys.executable, "-P", "-m", "sftdata", *arguments] if program == "sftdata" else [program, *arguments], folder)


def commands_in(block: Block) -> list[Shown]:
    """Return the commands of a block; in a console block each is followed by its output."""
    if block.language == "sh":
        return [Shown(line) for line in block.text.splitlines()]
    found: list[Shown] = []
    for line in block.text.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append(Shown(line[2:].strip()))
        else:
            found[-1].output += line
            found[-1].fails = found[-1].fails or line.startswith("error: ")
    return found


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Write every named block into a file and run every command, in the order of the README."""
    done = Played(tmp_path_factory.mktemp("readme"))
    shutil.copytree(RECIPES, done.folder / "recipes")
    for block in BLOCKS:
        if block.name:
            (done.folder / block.name).write_text(block.text, encoding="utf-8")
        if block.language in ("sh", "console"):
            for shown in commands_in(block):
                if not shown.command.startswith("make "):
                    shown.result = run_command(shown.command, done.folder)
                done.shown.append(shown)
    return done


def test_readmes_have_the_same_sections_and_blocks() -> None:
    chinese = read("README.zh-CN.md")
    levels = [[len(heading.split()[0]) for heading in headings(text)] for text in (README, chinese)]
    assert len(levels[0]) > 10 and levels[0] == levels[1]
    assert len(BLOCKS) > 10
    assert [block[:2] for block in BLOCKS] == [block[:2] for block in blocks(chinese)]
    for ours, theirs in zip(BLOCKS, blocks(chinese), strict=True):
        assert without_words(ours) == without_words(theirs)


def test_readmes_name_the_same_things() -> None:
    names = [sorted(set(re.findall(r"`[^`\n]+`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)))) for text in
             (README, read("README.zh-CN.md"))]  # fmt: skip
    assert len(names[0]) > 60 and names[0] == names[1]


def test_every_command_does_what_is_shown(played: Played) -> None:
    ran = [shown for shown in played.shown if shown.result is not None]
    assert len(ran) > 12 and sum(bool(shown.output) for shown in ran) > 3 and sum(shown.fails for shown in ran) == 1
    for shown in ran:
        assert shown.result is not None
        assert shown.result.returncode == (1 if shown.fails else 0), shown.result.stderr
        assert "Traceback" not in shown.result.stderr
        if shown.output:
            assert (shown.result.stderr if shown.fails else shown.result.stdout) == shown.output, shown.command


def test_make_commands_are_targets_and_the_demo_runs_what_is_said(played: Played) -> None:
    targets = [shown.command.removeprefix("make ") for shown in played.shown if shown.command.startswith("make ")]
    assert targets == ["demo", "test"]
    named = set(re.findall(r"`make (\w+)`", README))
    assert named > {"demo", "test"} and all(re.search(rf"^{name}:", MAKEFILE, re.MULTILINE) for name in named)
    demo = MAKEFILE.partition("\ndemo:")[2].partition("\n\n")[0]
    order = re.search(r"then runs ([\w, ]+) on the bundled data", README)
    assert order and re.findall(r"/sftdata (\w+)", demo) == re.split(r", | and ", order[1])
    assert all(f"`{name}`" in README and name in demo for name in ("documents/pages", "shards/zhenhuan", "models/zhenhuan"))


def test_recipe_trains_a_model_whose_loss_falls(played: Played) -> None:
    curve = json.loads((played.folder / "models/lighthouse/curves.json").read_text(encoding="utf-8"))
    assert [curve[0]["step"], curve[-1]["step"]] == [0, 30]
    assert curve[-1]["validation_loss"] < curve[0]["validation_loss"]


def test_folder_listing_is_that_of_a_build(played: Played) -> None:
    [listing] = [block for block in BLOCKS if block.language == "text"]
    first, *patterns = without_words(listing)
    assert first == f"{FOLDER}/" and len(patterns) > 10
    folder = played.folder / FOLDER
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    for pattern in patterns:
        assert any(fnmatch(file, pattern) for file in files), pattern
    for file in files:
        assert any(fnmatch(file, pattern) for pattern in patterns), file


def test_columns_are_those_of_shards() -> None:
    from sftdata.shards import COLUMN_TYPES

    rows = re.findall(r"^\| `(\w+)` \| list of (\w+) \|", README, re.MULTILINE)
    spoken = {"float": "float32"}
    types = {name: str(kind.value_type) for name, kind in COLUMN_TYPES.items()}
    assert dict(rows) == {name: spoken.get(kind, kind) for name, kind in types.items()}


def test_added_step_drops_its_row_and_nothing_else(played: Played) -> None:
    import pyarrow.parquet as pq

    ledger = pq.read_table(played.folder / "shards/quiet/.sftdata/ledger.parquet").to_pylist()
    mine = [row for row in ledger if row["step"] == "my_steps:no_shouting"]
    assert [(row["id"], row["action"], row["reason"]) for row in mine] == [("lighthouse.jsonl#4", "drop", "shouting")]
    kept = [sftdata.open_shards(played.folder / name).manifest["counts"]["plan"]["kept"] for name in (FOLDER, "shards/quiet")]
    assert kept == [7, 6]


def test_added_step_can_be_built_in(played: Played, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "sftdata", tmp_path / "sftdata", ignore=shutil.ignore_patterns("__pycache__"))
    code = (played.folder / "my_steps.py").read_text(encoding="utf-8")
    imports = "from sftdata.records import Drop\nfrom sftdata.registry import cleaner"
    assert "from sftdata import Drop, cleaner" in code
    (tmp_path / "sftdata/cleaners/no_shouting.py").write_text(code.replace("from sftdata import Drop, cleaner", imports))
    recipe = played.folder / "lighthouse.yaml"
    step = "sources.questions.clean=[{no_shouting: {max_share: 0.6}}]"
    command = [sys.executable, "-m", "sftdata", "build", str(recipe), "--set", step, "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["prepare"]["drop:no_shouting:shouting"] == 1


def test_python_example_runs(played: Played) -> None:
    done = run([sys.executable, "example.py"], played.folder)
    assert done.returncode == 0, done.stderr
    assert re.match(r"\d+ tokens, \d+ of them trained\n", done.stdout)
    assert "json_syntax" in done.stdout and "ai_identity" in done.stdout


def test_commands_names_and_files_in_the_text_are_real() -> None:
    commands = re.findall(r"^\| `sftdata ([\w-]+)", README, re.MULTILINE)
    assert sorted(commands) == sorted(main.commands)
    options = {option for command in main.commands.values() for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"`(--[a-z-]+)", README)) <= options
    python = README.partition("`import sftdata` offers")[2].partition("\n\n")[0]
    offered = set(re.findall(r"`(\w+)`", python)) - {"SftdataError"}
    assert offered == {name for name in sftdata.__all__ if not name.endswith("Error")}
    files = re.findall(r"`(tests/[\w/.]+|sftdata/\w+)`|\]\(([\w/.-]+)\)", README)
    paths = {path for found in files for path in found if path} - {"tests/test_clean_no_shouting.py"}
    assert len(paths) > 10
    assert [path for path in sorted(paths) if not (REPOSITORY / path).exists()] == []


def test_phases_are_those_of_the_pipeline() -> None:
    from sftdata.pipeline import STAGES

    phases = re.findall(r"^\| (\w+) \|", section(README, 4), re.MULTILINE)
    assert phases == ["Phase", *STAGES, "assemble"]
