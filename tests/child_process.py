"""Code of a test in a process of its own: to kill it, to make its writes fail, or to change its environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

RUNNER = """
import sys
from sftdata.errors import SftdataError
try:
    exec(sys.argv.pop(1), {"__name__": "__main__"})
except SftdataError as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
"""


def _environment(changes: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **changes}


def run_child(code: str, *arguments: object, seconds: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code to its end; an error of ours ends it with the exit code that the command line gives."""
    command = [sys.executable, "-c", RUNNER, code, *map(str, arguments)]
    return subprocess.run(command, env=_environment(environment), capture_output=True, text=True, timeout=seconds)


def start_child(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start code and return once it has printed its first line, which is read."""
    command = [sys.executable, "-c", RUNNER, code, *map(str, arguments)]
    child = subprocess.Popen(command, env=_environment(environment), stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline()
    return child


def end_child(child: subprocess.Popen[str]) -> None:
    """Kill a started child and take leave of it."""
    child.kill()
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


def operations(code: str, log: Path, *arguments: object) -> list[str]:
    """Return the storage operations that code goes through, in order."""
    log.unlink(missing_ok=True)
    assert run_child(code, *arguments, SFTDATA_FAILPOINT_LOG=str(log)).returncode == 0
    return [line.split()[0] for line in log.read_text(encoding="utf-8").splitlines()]
