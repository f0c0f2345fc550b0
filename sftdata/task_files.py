"""The tasks of a stage as a file, for schedulers that start processes by number: Slurm arrays and their like.

`write_tasks` goes through a build as far as results allow. Where a stage of several tasks lacks results it writes those tasks
into a file and stops; a stage of one task (the decisions) it carries out at once. Any number of processes, on any machine that
sees the same paths, then run lines of that file. Called again it goes on, and when nothing is left a build only assembles.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from sftdata import progress, storage
from sftdata.errors import DamagedError, DataError, RecipeError, StorageError
from sftdata.executors.choice import scan_here
from sftdata.executors.jobs import import_steps
from sftdata.installation import check_installation, installation
from sftdata.pipeline import perform, tell
from sftdata.places import begun, load
from sftdata.recipe_loader import Loaded
from sftdata.registry import outside_modules
from sftdata.removing import Removals
from sftdata.runner import DECISIONS, Summary
from sftdata.sealing import read_sealed
from sftdata.tasks import Planned, TaskMaker
from sftdata.work import ENTRY, Task, without_leftovers


class WrittenTasks(NamedTuple):
    """What a file of tasks holds."""

    file: str
    stage: str
    """Empty where every stage has its results: only a build is left to do."""
    num_tasks: int


class _Pending(Exception):
    """Raised where a stage of several tasks lacks results."""

    def __init__(self, tasks: list[Task]) -> None:
        super().__init__(len(tasks))
        self.tasks = tasks


class _Collector:
    """Carries out stages of one task, takes the results of the others, and raises _Pending with the tasks that lack one."""

    def __init__(self, perform: Callable[[Task], Summary]) -> None:
        self._perform = perform

    def map(self, planned: Sequence[Planned]) -> list[Summary]:
        """Return the summaries of one stage. Raises _Pending."""
        tasks = [item.task for item in planned]
        if tasks:
            progress.stage(tasks[0].stage, len(tasks))
        if len(tasks) == 1 or (tasks and tasks[0].stage in DECISIONS):
            return [self._perform(task) for task in tasks]
        found = [_summary(task) for task in tasks]
        pending = [task for task, summary in zip(tasks, found, strict=True) if summary is None]
        if pending:
            raise _Pending(pending)
        return [summary for summary in found if summary is not None]


def _summary(task: Task) -> Summary | None:
    """Return what a finished task says of itself; whether its files are whole is seen by the task that reads them next."""
    try:
        summary: Summary = read_sealed(task.entry / ENTRY)["summary"]
    except DamagedError:
        return None
    return summary


def write_tasks(
    recipe: str | Path | Loaded,
    file: str | Path,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    work_dir: str | Path | None = None,
    limit: int | None = None,
    without: Sequence[str] = (),
    allow_code: bool = False,
) -> WrittenTasks:
    """Write the tasks of the next stage that lack a result into a file, one a line, below a line about the installation.

    The other arguments are those of `build`. Under a `limit` parts are read one after the other, so those tasks are carried out
    here. Raises the errors of `sftdata.errors`.
    """
    loaded = load(recipe, overrides, allow_code)
    with begun(loaded, out, work_dir) as (_, work, listed), without_leftovers(work):
        tasks: list[Task] = []
        try:
            parts = scan_here(listed)
            tell(TaskMaker(loaded, work, Removals(without, parts)), _Collector(perform), parts, limit)
        except _Pending as pending:
            tasks = pending.tasks
        head = {"installation": installation(), "modules": outside_modules() if loaded.allow_code else [], "tasks": len(tasks)}
        lines = [json.dumps(value, ensure_ascii=False) for value in (head, *map(asdict, tasks))]
        storage.write_bytes(Path(file), "".join(f"{line}\n" for line in lines).encode("utf-8"))
    return WrittenTasks(str(file), tasks[0].stage if tasks else "", len(tasks))


def run_written_tasks(file: str | Path, index: int, *, of: int | None = None, allow_code: bool = False) -> list[Task]:
    """Carry out task `index`, from 0, of a file of tasks; with `of` every of-th task from there on. Returns those tasks.

    A task whose result exists is not run again. Raises DataError for a file that cannot be read or has no such task,
    RecipeError for tasks with code from outside without `allow_code`, WorkerError where this machine's installation is another.
    """
    head, lines = _read(Path(file))
    if index < 0 or (of is not None and not 0 <= index < of) or (of is None and index >= len(lines)):
        last = (of or len(lines)) - 1
        raise DataError(f"{file}: no task {index}; {f'give an index from 0 to {last}' if last >= 0 else 'it holds no task'}")
    if head["modules"] and not allow_code:
        raise RecipeError(f"{file}: its tasks run code from {', '.join(head['modules'])}; allow that with --allow-code")
    check_installation(head["installation"])
    import_steps(head["modules"])
    tasks = [Task(**json.loads(line)) for line in lines[index :: of or len(lines)]]
    for task in tasks:
        progress.stage(f"{task.stage} {task.name}", 1)
        perform(task)
    return tasks


def _read(file: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        head, *lines = file.read_text(encoding="utf-8").splitlines()
        value: dict[str, Any] = json.loads(head)
        complete = value["tasks"] == len(lines)
    except OSError as error:
        raise StorageError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: is no file of tasks; write one with `sftdata build RECIPE --write-tasks {file}`") from error
    if not complete:
        raise DataError(f"{file}: holds {len(lines)} of its {value['tasks']} tasks; write it again")
    return value, lines
