"""Running the tasks of a build, or only saying what would run: both go through the same story.

Which tasks are done already, and for those that are not, why: by comparison with what the last build of the recipe depended on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sftdata import progress, storage
from sftdata.tasks import Planned
from sftdata.work import ENTRY, Task, read_entry

Summary = dict[str, Any]

class Executor(Protocol):
    """Where tasks are carried out: nothing but a map."""

    def map(self, function: Callable[[Task], Summary], tasks: Iterable[Task]) -> Iterator[Summary]:
        """Yield the result of each task, in the order of the tasks."""


class Runner(Protocol):
    """What carries out the tasks of the story."""

    def map(self, planned: Sequence[Planned]) -> list[Summary]:
        """Return the summaries of tasks of one stage, in their order."""


class TaskRunner:
    """Runs tasks with an executor, counting and timing them."""

    def __init__(self, perform: Callable[[Task], Summary], executor: Executor) -> None:
        self._perform = perform
        self._executor = executor
        self.planned: list[Planned] = []
        self.num_reused = 0
        self.seconds: dict[str, float] = {}

    def map(self, planned: Sequence[Planned]) -> list[Summary]:
        """Run the tasks whose results are missing or damaged; return all summaries, in order."""
        self.planned.extend(planned)
        if not planned:
            return []
        stage = planned[0].task.stage
        progress.stage(stage, len(planned))
        begin = time.monotonic()
        before = [_stamp(item.task) for item in planned]
        tasks = [item.task for item in planned]
        alone = len(tasks) == 1  # one task needs no worker
        summaries = [self._perform(tasks[0])] if alone else list(self._executor.map(self._perform, tasks))
        kept = (stamp is not None and stamp == _stamp(task) for stamp, task in zip(before, tasks, strict=True))
        self.num_reused += sum(kept)
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - begin, 3)
        return summaries


def _stamp(task: Task) -> tuple[int, int] | None:
    """Return what changes when a task's entry is made again, as it is where it turned out to be damaged; None without one."""
    try:
        status = (task.entry / ENTRY).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


class TaskPlan(NamedTuple):
    """What would happen to one task."""

    stage: str
    name: str
    action: str
    """`run` or `reuse`."""
    why: str
    fingerprint: str = ""
    """Of the task; empty where it is not known yet."""


class NotYetKnown(Exception):
    """Raised by a rehearsal where the story needs the result of a task that has not run."""


class Rehearsal:
    """Runs nothing: notes for each task whether its result exists, and what changed where it does not."""

    def __init__(self, history: dict[str, dict[str, Any]]) -> None:
        self._history = history
        self.tasks: list[TaskPlan] = []

    def map(self, planned: Sequence[Planned]) -> list[Summary]:
        """Note the tasks. Raises NotYetKnown after noting them, where one of them would have to run."""
        summaries = []
        for item in planned:
            summary = read_entry(item.task.entry)
            why = "result exists" if summary is not None else self._why(item)
            action = "run" if summary is None else "reuse"
            self.tasks.append(TaskPlan(item.task.stage, item.task.name, action, why, item.task.fingerprint))
            summaries.append(summary)
        if any(summary is None for summary in summaries):
            raise NotYetKnown
        return [summary for summary in summaries if summary is not None]

    def _why(self, item: Planned) -> str:
        if (item.task.entry / ENTRY).exists():
            return "the kept result is damaged"
        before = self._history.get(history_key(item.task))
        if before is None:
            return "never built"
        names = {**before, **item.depends_on}
        changed = [name for name in names if before.get(name) != _plain(item.depends_on.get(name))]
        return f"changed: {', '.join(changed)}" if changed else "the kept result is gone"


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back."""
    return json.loads(json.dumps(value, default=str))


def history_key(task: Task) -> str:
    """Return the name under which a task's dependencies are remembered from build to build."""
    return f"{task.stage} {task.name}"


def _history_file(work_folder: Path, recipe_name: str) -> Path:
    return work_folder / "history" / f"{recipe_name}.json"


def read_history(work_folder: Path, recipe_name: str) -> dict[str, dict[str, Any]]:
    """Return what the tasks of the last finished build of a recipe depended on; nothing where there was none."""
    try:
        history: dict[str, dict[str, Any]] = json.loads(_history_file(work_folder, recipe_name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # it only explains; nothing is decided by it
    return history


def write_history(work_folder: Path, recipe_name: str, planned: Sequence[Planned]) -> None:
    """Remember what the tasks of a finished build depended on."""
    path = _history_file(work_folder, recipe_name)
    storage.make_folder(path.parent)
    storage.write_json(path, {history_key(item.task): item.depends_on for item in planned}, durable=False)
