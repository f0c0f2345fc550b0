"""Commands of sftdata in processes that begin with everything imported, so that thousands of them can be tried."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

PROGRESS = re.compile(r"\w+( \([\d,]+ tasks\))?: [\d,]+ rows")

TESTS = Path(__file__).resolve().parents[1]


class Ended(NamedTuple):
    """How a command ended: its exit code, negative for a signal, and what it said on stderr."""

    code: int
    said: str

    @property
    def lines(self) -> list[str]:
        """What it said, without the lines that tell every few seconds how far it is."""
        return [line for line in self.said.splitlines() if line.strip() and not PROGRESS.fullmatch(line)]


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment with the repository importable, and changes."""
    return {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", **changes}


class Zygote:
    """A process that forks for every command that it is told."""

    def __init__(self) -> None:
        code = "from faults.zygote import serve; serve()"
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen([sys.executable, "-c", code], text=True, env=environment(), **pipes)

    def run(self, *arguments: object, folder: Path, **changes: str) -> Ended:
        """Run one command to its end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        order = {"arguments": [str(argument) for argument in arguments], "folder": str(folder), "environment": changes}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Ended(*json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate("")
        self._process.wait()


_idle: list[Zygote] = []


def run(*arguments: object, folder: Path, **changes: str) -> Ended:
    """Run one command; threads that do so at once have a zygote each."""
    try:
        zygote = _idle.pop()
    except IndexError:
        zygote = Zygote()
    ended = zygote.run(*arguments, folder=folder, **changes)
    _idle.append(zygote)
    return ended


def close() -> None:
    """End the zygotes, which must be idle."""
    while _idle:
        _idle.pop().close()


def serve() -> None:
    """Be a zygote: import what a build imports, then fork for every line that comes in."""
    from build_support import write_small_recipe

    from sftdata.cli import main
    from sftdata.recipe_loader import load_recipe

    with tempfile.TemporaryDirectory() as name:
        recipe = write_small_recipe(Path(name))
        for module in _modules_of_a_build(recipe):
            with contextlib.suppress(ImportError):  # some can only be imported by others of them
                importlib.import_module(module)
        load_recipe(recipe)  # reads rule packs and templates, which stay in memory
    for line in sys.stdin:
        print(json.dumps(_fork(main, json.loads(line))), flush=True)


def _modules_of_a_build(recipe: Path) -> list[str]:
    """Build in a process of its own and return what it imported; it starts threads, which no zygote may have."""
    code = f"import sys, sftdata; sftdata.build({str(recipe)!r}, out={str(recipe.parent / 'out')!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def _fork(main: Any, order: dict[str, Any]) -> tuple[int, str]:
    """Run one command in a child; return its exit code and what it said."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _become(main, order, writer)
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as said:
        text = said.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), text


def _become(main: Any, order: dict[str, Any], writer: int) -> None:
    """Be the command, in the child: never returns."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.environ.update(order["environment"])
        os.chdir(order["folder"])
        main(order["arguments"], prog_name="sftdata")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
