"""Errors that the library raises. Each carries value, place and cure in one line, and the exit code of the command line.

SftdataError                 exit 1
├── RecipeError              the recipe, or an option of a command, is wrong
├── DataError                an input is missing, unreadable or over a limit
│   └── DamagedInputError    one input file is damaged, or expands without measure: what cannot be read of it is quarantined
├── TemplateError            a chat template cannot be loaded or is refused
├── TokenizerError           a tokenizer cannot be loaded, or fails its self-check
├── DamagedError             a file does not match its checksum, or a folder is no complete build
├── ConservationError        rows in and rows out of a stage differ: a defect of ours, never published
├── WorkerError              a worker process died or hung, and did so again when tried alone
├── TrainingError            training cannot start, or stopped (NaN, out of memory)
├── StorageError             exit 74: the disk is full or an operation on a file failed
└── LockedError              exit 75: another build holds the folder
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SftdataError(Exception):
    """Any error that sftdata raises on purpose; its text is one line for the user."""

    exit_code = 1


class RecipeError(SftdataError):
    """The recipe, or an option of a command, is wrong."""


class DataError(SftdataError):
    """An input is missing, unreadable, empty or over a limit."""


class DamagedInputError(DataError):
    """From here on an input file cannot be read, whoever tries: a build quarantines the rest of it and goes on."""

    def __init__(self, message: str, reason: str = "file_damaged") -> None:
        super().__init__(message)
        self.reason = reason
        """A code from `schemas.QUARANTINE_REASONS`."""

    def __reduce__(self) -> tuple[type[DamagedInputError], tuple[str, str]]:
        return type(self), (str(self), self.reason)


class TemplateError(SftdataError):
    """A chat template cannot be loaded, raises, or is refused."""


class TokenizerError(SftdataError):
    """A tokenizer cannot be loaded, lacks what a formatter needs, or fails its self-check."""


class DamagedError(SftdataError):
    """A file does not match its checksum, or a folder is no complete build."""


class ConservationError(SftdataError):
    """Rows or tokens in and out of a stage differ. This is a defect of sftdata; nothing is published."""


class WorkerError(SftdataError):
    """A worker process died or hung on a task, and did so again when the task was tried alone."""


class TrainingError(SftdataError):
    """Training cannot start, or was stopped before it could do harm (NaN loss, wrong shards, no memory)."""


class StorageError(SftdataError):
    """The disk is full or an operation on a file failed."""

    exit_code = 74


class LockedError(SftdataError):
    """Another build holds the folder."""

    exit_code = 75


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest known name, else the list of known names."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if nearest:
        return f"; did you mean {nearest[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
