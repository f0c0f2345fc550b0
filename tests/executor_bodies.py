"""Bodies of tasks for the tests of executors: worker processes import them from here."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from sftdata import progress, registry
from sftdata.errors import DataError
from sftdata.work import Task


class OwnError(DataError):
    """An error class that the parent process does not know."""


def square(task: Task) -> dict[str, Any]:
    """Return the square of the task's number; later tasks are done sooner."""
    time.sleep(0.03 * (int(task.name) % 3 == 0))
    return {"square": int(task.name) ** 2, "process": os.getpid()}


def raise_data_error(task: Task) -> dict[str, Any]:
    """Raise an error of ours."""
    raise DataError(f"{task.name}: cannot be read")


def raise_own_error(task: Task) -> dict[str, Any]:
    """Raise an error of a class derived from one of ours."""
    raise OwnError(f"{task.name}: is odd")


def raise_key_error(task: Task) -> dict[str, Any]:
    """Raise an error that is nobody's."""
    return {"row": {}[task.name]}


def raise_end_of_file(task: Task) -> dict[str, Any]:
    """Raise the error by which a worker knows that its parent is gone."""
    raise EOFError("inside the task")


def return_no_json(task: Task) -> dict[str, Any]:
    """Return what no pipe can carry."""
    return {"function": lambda: task}


def fail_once(task: Task) -> dict[str, Any]:
    """Kill or hang the process at the first attempt of the task named `bad`; note when each attempt ran."""
    begin = time.monotonic()
    marker = Path(task.work_folder) / "attempted"
    if task.name == "bad" and (task.spec["always"] or not marker.exists()):
        marker.touch()
        _misbehave(task.spec["how"])
    time.sleep(0.05)
    with open(Path(task.work_folder) / "times", "a", encoding="ascii") as file:
        file.write(f"{task.name} {begin} {time.monotonic()}\n")
    return {"name": task.name}


def _misbehave(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)
    if how == "close":
        os.closerange(3, 100)
    time.sleep(60)


def work_slowly(task: Task) -> dict[str, Any]:
    """Take longer than the timeout, but show progress."""
    for _ in range(5):
        time.sleep(0.5)
        progress.tick(5)
    return {"process": os.getpid()}


def sleep_long(task: Task) -> dict[str, Any]:
    """Say which process this is, and sleep."""
    (Path(task.work_folder) / str(os.getpid())).touch()
    time.sleep(60)
    return {}


def clean_outside(task: Task) -> dict[str, Any]:
    """Run a cleaner that a module from outside registered."""
    return {"text": registry.find_step("cleaner", task.name).function("text")}
