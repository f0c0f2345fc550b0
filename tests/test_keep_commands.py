"""`export`, `repair` and `gc` on the command line, as docs/export.md shows them."""

from __future__ import annotations

import json
import re
import shlex
import signal
from pathlib import Path

import pytest
from build_support import run_command, write_small_recipe
from click.testing import CliRunner

import sftdata
from sftdata import storage
from sftdata.cli import main
from sftdata.exporters import EXPORTERS

DOCS = Path(__file__).resolve().parents[1] / "docs" / "export.md"


def run(command: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, shlex.split(command))
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe and its build, as the page supposes."""
    recipe = write_small_recipe(tmp_path, name="lighthouse")
    recipe.rename(tmp_path / "lighthouse.yaml")
    monkeypatch.chdir(tmp_path)
    sftdata.build("lighthouse.yaml")
    return tmp_path


def test_commands_of_the_page_do_what_it_says(folder: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 11 and all(command.startswith("sftdata ") for command in commands)
    for command in commands:
        code, _, err = run(command.removeprefix("sftdata "))
        assert code == 0, f"{command}: {err}"
    for to in EXPORTERS:
        assert (folder / "exports" / to / "export.json").is_file()
    assert '"conversations"' in (folder / "exports" / "sharegpt" / "train.jsonl").read_text(encoding="utf-8")


def test_page_lists_every_consumer_with_its_configuration() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(name for name, *_ in rows) == sorted(EXPORTERS)


def test_json_tells_what_was_done(folder: Path) -> None:
    code, out, err = run("export shards/lighthouse --to parquet --out out --json")
    done = json.loads(out)
    assert code == 0 and done["counts"]["train"]["rows"] > 3 and len(done["files"]) > 3
    assert "README.md says how" in err
    shard = folder / "shards/lighthouse/train/data-00000-of-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:-9])
    code, out, err = run("repair shards/lighthouse --json")
    assert code == 0 and json.loads(out)["damaged"] == ["train/data-00000-of-00001.arrow"], err
    code, out, _ = run("gc --json --dry-run")
    assert code == 0 and [stage["stage"] for stage in json.loads(out)["stages"]][:2] == ["prepare", "resolve"]


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        ("export shards/lighthouse --to trill --out out", 1, "did you mean 'trl'"),
        ("export shards/lighthouse --to trl --out .", 1, "is not empty"),
        ("export nowhere --to trl --out out", 1, "no such folder"),
        ("export shards/lighthouse --to trl", 2, "--out"),
        ("repair nowhere", 1, "no such folder"),
        ("gc --work-dir raw", 1, "is no work folder"),
        ("gc missing.yaml", 1, "missing.yaml: cannot be read"),
    ],
)
def test_mistake_gives_one_line(folder: Path, command: str, code: int, text: str) -> None:
    found, _, err = run(command)
    assert found == code and text in err and "Traceback" not in err
    assert code == 2 or len(err.strip().splitlines()) == 1


def test_held_folders_are_exit_code_75(folder: Path) -> None:
    with storage.in_use(folder / "shards" / ".sftdata-work"):
        assert run("gc")[0] == 75
    with storage.lock(folder / "out"):
        assert run("export shards/lighthouse --to trl --out out")[0] == 75


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_export_that_is_killed_leaves_nothing_half_done(folder: Path, share: float) -> None:
    command = ("export", "shards/lighthouse", "--to", "megatron", "--out", "out")
    assert run_command(*command[:-1], "whole", folder=folder, SFTDATA_FAILPOINT_LOG=str(folder / "log")).returncode == 0
    number = int(share * len((folder / "log").read_text().splitlines())) + 1
    killed = run_command(*command, folder=folder, SFTDATA_FAILPOINT=f"any:{number}:kill")
    assert killed.returncode == -signal.SIGKILL
    assert not (folder / "out").exists() or (folder / "out" / "export.json").is_file()
    if not (folder / "out").exists():
        assert run_command(*command, folder=folder).returncode == 0
    for path in (folder / "whole").rglob("*"):
        assert not path.is_file() or (folder / "out" / path.relative_to(folder / "whole")).read_bytes() == path.read_bytes()
    assert not list(folder.glob(".out.tmp-*"))


def test_export_on_a_full_disk_says_so(folder: Path) -> None:
    failed = run_command(
        "export", "shards/lighthouse", "--to", "parquet", "--out", "out", folder=folder, SFTDATA_FAILPOINT="write:4:enospc"
    )
    assert failed.returncode == 74 and len(failed.stderr.strip().splitlines()) == 1
    assert [path.name for path in folder.iterdir() if "out" in path.name] == [".out.lock"]
