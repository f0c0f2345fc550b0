"""Records that this machine could not finish: found one by one, left out, and remembered.

Bad input is known by counted work and is bad everywhere. A worker that hangs, or is killed for its memory, is another matter.
Its task is tried again alone, and when that fails too, the task is pinned: from then on it handles one record at a time and
says before each which it is, so that a further loss names the record. That record is quarantined with the reason `environment`
and the task begins again without it. A pin is a file of the work folder and part of the task's fingerprint: the next build
leaves out the same records, and its manifest says that it is not reproducible. Whoever deletes the file gives them another try.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from sftdata import progress, storage
from sftdata.errors import DamagedError, WorkerError
from sftdata.formatting import Documents
from sftdata.records import Bad, InvalidRecord, Record
from sftdata.sealing import read_sealed, sealed
from sftdata.work import Task

T = TypeVar("T")

REASON = "environment"
PINNED_STAGES = ("prepare", "tokenize")
"""Stages that handle records one after the other; in the others there is none to leave out."""

FOLDER = "environment"
MAX_LEFT_OUT = 5
"""Records of one task: where more of them kill their workers, it is the machine or a step that needs help."""

READING = "read"
"""What a task did when it was lost: read a record, which may be any of those that follow, …"""
HANDLING = "handle"
"""… or clean, format or tokenize one that was read."""

LeftOut = dict[str, str]
"""`<what was being done> <number of the record in its part, from 0>` → what happened."""


class LostTaskError(WorkerError):
    """A task whose worker died or hung, and did so again when it was tried alone."""

    def __init__(self, task: Task, why: str, place: str = "") -> None:
        super().__init__(f"{task.stage} {task.name}: the worker {why}, and again when the task was tried alone")
        self.task = task
        self.why = why
        self.place = place
        """The record that a pinned task was at, as a key of LeftOut."""


def _pin_file(work_folder: Path, fingerprint: str) -> Path:
    return work_folder / FOLDER / f"{fingerprint}.json"


def read_pin(work_folder: Path, fingerprint: str) -> LeftOut | None:
    """Return what a pinned task leaves out; None for a task that is not pinned. Raises DamagedError."""
    path = _pin_file(work_folder, fingerprint)
    if not path.is_file():
        return None
    try:
        left_out: LeftOut = read_sealed(path)["left_out"]
    except DamagedError as error:
        raise DamagedError(f"{error}; delete it, then the records that it leaves out are tried again") from error
    return left_out


def pin(lost: LostTaskError) -> None:
    """Pin a task that was lost, or leave out one more record of it. Raises the error where that is no way out."""
    task = lost.task
    work_folder = Path(task.work_folder)
    if task.stage not in PINNED_STAGES:
        raise lost
    left_out: LeftOut = dict(task.spec.get("left_out") or {})
    if task.spec.get("left_out") is not None:
        if not lost.place or lost.place in left_out:
            raise lost
        left_out[lost.place] = lost.why
        if len(left_out) > MAX_LEFT_OUT:
            places = ", ".join(f"{place}: {why}" for place, why in left_out.items())
            raise WorkerError(f"{task.stage} {task.name}: {len(left_out)} records cost their worker its life ({places})")
    path = _pin_file(work_folder, task.spec.get("pin", task.fingerprint))
    storage.make_folder(path.parent)
    storage.write_bytes(path, sealed({"stage": task.stage, "task": task.name, "left_out": left_out}))


def with_pins(attempt: Callable[[], T]) -> T:
    """Return the result of an attempt, which is made again after each task that it lost; what it finished is reused."""
    while True:
        try:
            return attempt()
        except LostTaskError as lost:
            pin(lost)


def is_pinned(tasks: Iterable[Task]) -> bool:
    """Say whether the result of any of the tasks depends on what this machine could do."""
    return any(task.spec.get("left_out") is not None for task in tasks)


def one_by_one(records: Iterator[Record | Bad], left_out: LeftOut, first_record: int) -> Iterator[Record | Bad]:
    """Yield the records of a pinned part, saying before each which it is; a record that is left out comes as a Bad.

    Where reading itself was lost, all that follows cannot be reached: one Bad stands for it, as for a file that is cut off.
    `first_record` is the number of the part's first record in its file.
    """
    number = 0
    while True:
        why = left_out.get(f"{READING} {number}")
        if why is not None:
            yield Bad(str(first_record + number), REASON, f"all from here on is left out: reading it, the worker {why}", b"")
            return
        progress.at(f"{READING} {number}")
        record = next(records, None)
        if record is None:
            return
        why = left_out.get(f"{HANDLING} {number}")
        if why is None:
            progress.at(f"{HANDLING} {number}")
            yield record
        else:
            yield Bad(record.key, REASON, f"left out: on it, the worker {why}", b"")
        number += 1


def rows_one_by_one(
    batches: Iterator[Documents], left_out: LeftOut | None
) -> Iterator[tuple[Documents, dict[int, InvalidRecord]]]:
    """Yield batches of documents as they are; under a pin one row at a time, and with the error of one that is left out."""
    if left_out is None:
        yield from ((batch, {}) for batch in batches)
        return
    for batch in batches:
        for row in range(len(batch.numbers)):
            documents = batch.take(np.array([row]))
            place = f"{HANDLING} {documents.numbers[0]}"
            why = left_out.get(place)
            if why is None:
                progress.at(place)
            yield documents, {0: InvalidRecord(REASON, f"left out: on it, the worker {why}")} if why else {}
