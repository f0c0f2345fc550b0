"""What the system sees of a build: every write lies in the work folder or the folder being staged, and is flushed in time."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from build_support import write_small_recipe
from faults.zygote import environment

CALLS = "openat,open,creat,rename,renameat,renameat2,link,linkat,fsync,fdatasync,connect"


class Call(NamedTuple):
    """One system call that succeeded: its name and the paths in it, absolute."""

    name: str
    paths: tuple[str, ...]
    line: str


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Call]]:
    """The folder of a build with two workers, and its system calls in order."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    folder = tmp_path_factory.mktemp("traced").resolve()
    write_small_recipe(folder / "raw")
    command = ["strace", "-f", "-y", "-s", "4096", "-o", "trace", "-e", f"trace={CALLS}", sys.executable, "-m", "sftdata"]
    options = ["build", "raw/recipe.yaml", "--out", "out", "--workers", "2"]
    variables = environment(PYTHONDONTWRITEBYTECODE="1")
    done = subprocess.run([*command, *options], cwd=folder, env=variables, capture_output=True, text=True)
    if "PTRACE" in done.stderr or "ptrace" in done.stderr:
        pytest.skip("this machine does not let strace follow a process")
    assert done.returncode == 0, done.stderr
    return folder, list(_calls(folder, (folder / "trace").read_text(errors="replace")))


def _calls(folder: Path, trace: str) -> list[Call]:
    found = []
    for line in _joined(trace):
        match = re.match(r"\d+ +(\w+)\((.*)\) += +(-?\d+)", line)
        if match and not match[3].startswith("-"):
            paths = re.findall(r'"([^"]*)"', match[2]) or re.findall(r"<([^>]*)>", match[2])
            found.append(Call(match[1], tuple(str(folder / path) for path in paths), line))
    return found


def _joined(trace: str) -> list[str]:
    """Return the lines of a trace, with calls that another process interrupted put together where they end."""
    lines, begun = [], {}
    for line in trace.splitlines():
        process = line.split()[0]
        if line.endswith("<unfinished ...>"):
            begun[process] = line.removesuffix("<unfinished ...>").rstrip()
        elif " resumed>" in line:
            lines.append(begun.pop(process, process) + line.partition(" resumed>")[2])
        else:
            lines.append(line)
    return lines


def test_every_file_opened_for_writing_is_in_the_work_folder_or_staged(traced: tuple[Path, list[Call]]) -> None:
    folder, calls = traced
    opened = [call.paths[0] for call in calls if call.name != "connect" and re.search("O_WRONLY|O_RDWR|O_CREAT", call.line)]
    own = [path for path in opened if not path.startswith(("/dev/", "/proc/self/"))]
    places = (f"{folder}/.sftdata-work/", f"{folder}/.out.tmp-", f"{folder}/.out.lock")
    assert len(own) > 50 and [path for path in own if not path.startswith(places)] == []
    assert all("/." in path.rpartition("/")[0] or path.endswith(".lock") for path in own)
    assert set(opened) - set(own) <= {"/dev/null", "/proc/self/oom_score_adj"}


def test_nothing_is_sent_anywhere(traced: tuple[Path, list[Call]]) -> None:
    assert [call.line for call in traced[1] if call.name == "connect" and "AF_INET" in call.line] == []


def test_files_and_folders_are_flushed_before_the_rename_and_the_parent_after_it(traced: tuple[Path, list[Call]]) -> None:
    folder, calls = traced
    [swap] = [number for number, call in enumerate(calls) if call.paths[-1:] == (f"{folder}/out",) and call.name == "rename"]
    staged = Path(calls[swap].paths[0])
    assert staged.name.startswith(".out.tmp-")
    flushed = {call.paths[0] for call in calls[:swap] if call.name == "fsync"}
    inside = [staged / path.relative_to(folder / "out") for path in [folder / "out", *(folder / "out").rglob("*")]]
    assert len(inside) > 20 and [path for path in inside if str(path) not in flushed] == []
    after = next(call for call in calls[swap:] if call.name == "fsync")
    assert after.paths == (str(folder),)
