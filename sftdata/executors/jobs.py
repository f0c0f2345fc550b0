"""What every executor does alike: import the steps from outside, and carry an error from a worker to the user."""

from __future__ import annotations

import importlib
import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from sftdata import errors
from sftdata.errors import SftdataError
from sftdata.work import Task

Body = Callable[[Task], dict[str, Any]]

ErrorParts = tuple[list[str], str, str]
"""The names of an error's classes, nearest first, its text, and its traceback: what any process can be sent."""

DEFAULT_TIMEOUT = 600.0
"""Seconds without a sign of progress after which a worker counts as hung; SFTDATA_WORKER_TIMEOUT sets another."""


def available_cores() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def timeout_setting() -> float:
    """Return the seconds after which a silent worker counts as hung. Raises SftdataError for a setting that is no number."""
    return _setting("SFTDATA_WORKER_TIMEOUT", "seconds", DEFAULT_TIMEOUT)


def memory_setting() -> float:
    """Return the MiB that SFTDATA_WORKER_MEMORY gives a worker, 0 for no bound. Raises SftdataError as `timeout_setting`."""
    return _setting("SFTDATA_WORKER_MEMORY", "MiB", 0.0)


def _setting(name: str, unit: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        return float(text or default)
    except ValueError as error:
        raise SftdataError(f"{name}={text}: give a number of {unit}") from error


def import_steps(modules: Sequence[str]) -> None:
    """Import the modules from outside that define steps, as the main process has."""
    for module in modules:
        importlib.import_module(module)


def describe_error(error: BaseException) -> ErrorParts:
    """Return what `rebuild_error` needs; call it while the error is handled."""
    return [kind.__name__ for kind in type(error).__mro__], str(error), traceback.format_exc()


def rebuild_error(names: list[str], text: str, trace: str) -> Exception:
    """Return the error that a task raised, as the nearest of our own classes; any other keeps its traceback."""
    for name in names:
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, SftdataError):
            return kind(text)
    return RuntimeError(f"{names[0]}: {text}\n{trace}")
