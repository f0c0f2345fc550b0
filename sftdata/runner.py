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
from sftdata.environment import is_pinned
from sftdata.tasks import Planned
from sftdata.work import Task, read_entries

Summary = dict[str, Any]

DECISIONS = frozenset({"resolve", "tokenizer", "plan"})
"""Stages of one task, over all rows."""


class Executor(Protocol):
    """Where tasks are carried out: nothing but a map."""

    num_workers: int

    def map(self, function: Callable[[Task], Summary], tasks: Iterable[Task]) -> Iterator[Summary]:
        """Yield the result of each task, in the order of the tasks."""


class Runner(Protocol):
    """What carries out the tasks of the story."""

    def map(self, planned: Sequence[Planned]) -> list[Summary]:
        """Return the summaries of tasks of one stage, in their order."""


class TaskRunner:
    """Runs tasks with an executor, counting and timing them; `alone` runs one in a watched process, once."""

    def __init__(
        self,
        perform: Callable[[Task], Summary],
        executor: Executor,
        alone: Callable[[Callable[[Task], Summary], Task], Summary],
    ) -> None:
        self._perform = perform
        self._executor = executor
        self._alone = alone
        self.planned: list[Planned] = []
        self.num_reused = 0
        self.damaged: list[str] = []
        """Tasks whose result existed and did not match its checksums: they were run again."""
        self.seconds: dict[str, float] = {}

    def map(self, planned: Sequence[Planned]) -> list[Summary]:
        """Run the tasks whose results are missing or damaged; return all summaries, in order."""
        self.planned.extend(planned)
        if not planned:
            return []
        stage = planned[0].task.stage
        progress.stage(stage, len(planned))
        begin = time.monotonic()
        found = read_entries([item.task.entry for item in planned], self._executor.num_workers)
        missing = {item.task.fingerprint: item.task for item, summary in zip(planned, found, strict=True) if summary is None}
        self.num_reused += len(planned) - found.count(None)
        self.damaged += [history_key(task) for task in missing.values() if task.entry.exists()]
        made = self._run(stage, missing)
        summaries = [made[item.task.fingerprint] if done is None else done for item, done in zip(planned, found, strict=True)]
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - begin, 3)
        return summaries


    def _run(self, stage: str, tasks: dict[str, Task]) -> dict[str, Summary]:
        """Run tasks by fingerprint: decisions over all rows in this process, pinned tasks alone, after the others."""
        ordinary = {name: task for name, task in tasks.items() if not is_pinned([task])}
        run = map if stage in DECISIONS else self._executor.map
        made = dict(zip(ordinary, run(self._perform, ordinary.values()), strict=True))
        made.update((name, self._alone(self._perform, task)) for name, task in tasks.items() if name not in ordinary)
        return made


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

    def __init__(self, history: dict[str, dict[str, Any]], num_threads: int = 1) -> None:
        self._history = history
        self._num_threads = num_threads
        self.tasks: list[TaskPlan] = []

    def map(self, planned: Sequence[Planned]) -> list[Summary]:
        """Note the tasks. Raises NotYetKnown after noting them, where one of them would have to run."""
        summaries = read_entries([item.task.entry for item in planned], self._num_threads)
        for item, summary in zip(planned, summaries, strict=True):
            why = "result exists" if summary is not None else self._why(item)
            action = "run" if summary is None else "reuse"
            self.tasks.append(TaskPlan(item.task.stage, item.task.name, action, why, item.task.fingerprint))
        if any(summary is None for summary in summaries):
            raise NotYetKnown
        return [summary for summary in summaries if summary is not None]

    def _why(self, item: Planned) -> str:
        if item.task.entry.exists():
            return "the kept result is damaged"
        before = self._history.get(history_key(item.task))
        if before is None:
            return "never built"
        changed = list(_changed(before, _plain(item.depends_on)))
        return f"changed: {', '.join(changed)}" if changed else "the kept result is gone"


def _changed(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Yield the names whose values differ, with the names inside of them that do."""
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if old != new and isinstance(old, dict) and isinstance(new, dict):
            yield f"{name} ({', '.join(_changed(old, new))})"
        elif old != new:
            yield name


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
    history = {history_key(item.task): item.depends_on for item in planned}
    data = json.dumps(history, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")
    if not path.is_file() or path.read_bytes() != data:
        storage.make_folder(path.parent)
        storage.write_bytes(path, data, durable=False)
