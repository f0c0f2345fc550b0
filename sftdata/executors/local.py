"""The local executor: in this process, or in supervised spawned processes.

A worker that dies or hangs never hangs the build: its task is tried once more, alone, and then named in an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from sftdata import progress
from sftdata.environment import LostTaskError
from sftdata.executors.jobs import Body, describe_error, import_steps, memory_setting, rebuild_error, timeout_setting
from sftdata.registry import outside_modules
from sftdata.work import Task


class SerialExecutor:
    """Runs every task in this process, in order."""

    num_workers = 1

    def map(self, function: Body, tasks: Iterable[Task]) -> Iterator[dict[str, Any]]:
        """Yield the result of each task, in the order of the tasks."""
        for task in tasks:
            yield function(task)

    def close(self) -> None:
        """Do nothing: there is no process to end."""


class _Worker:
    """One worker process and the pipe to it.

    A plain `python -c` rather than `multiprocessing.Process`: it does not import the caller's main script again, so that a
    script without a main guard can build too.
    """

    def __init__(self) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        arguments = f"{theirs.fileno()}, {os.getpid()}, {outside_modules()!r}"
        bootstrap = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from sftdata.executors.local import serve; serve({arguments})"
        )
        command = [sys.executable, "-c", bootstrap]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for this process
        try:
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.job: tuple[int, Task] | None = None
        self.place = ""
        self.last_sign = time.monotonic()

    def give(self, function: Body, number: int, task: Task) -> None:
        """Send a job; a worker that is already dead is noticed when its answer is waited for."""
        self.job = (number, task)
        self.place = ""
        self.last_sign = time.monotonic()
        with contextlib.suppress(ConnectionError):
            self.pipe.send((function, task))

    def end(self) -> None:
        """Kill the process and take leave of it."""
        self.pipe.close()
        self.process.kill()
        self.process.wait()


class ProcessExecutor:
    """Runs tasks in `num_workers` spawned processes and watches over them; one map at a time."""

    def __init__(self, num_workers: int, timeout: float | None = None) -> None:
        self.num_workers = num_workers
        self._timeout = timeout_setting() if timeout is None else timeout
        memory_setting()  # the workers heed it; a wrong one is said here, once
        self._workers: list[_Worker] = []

    def map(self, function: Body, tasks: Iterable[Task]) -> Iterator[dict[str, Any]]:
        """Yield the result of each task, in the order of the tasks.

        Raises what a task raised; LostTaskError where a task's worker died or hung twice, the second time alone.
        """
        if any(worker.job for worker in self._workers):
            raise RuntimeError("the executor is carrying out another map; finish or close that one first")
        jobs = deque(enumerate(tasks))
        total = len(jobs)
        failed: list[tuple[int, Task, str]] = []
        results: dict[int, dict[str, Any]] = {}
        try:
            for number in range(total):
                while number not in results:
                    self._fill(function, jobs)
                    if any(worker.job for worker in self._workers):
                        self._collect(results, failed)
                    else:
                        first, task, _ = failed.pop(0)
                        results[first] = self.alone(function, task)
                yield results.pop(number)
        finally:  # a map that ends early leaves workers with jobs whose results nobody waits for
            for worker in [worker for worker in self._workers if worker.job]:
                self._discard(worker)

    def _fill(self, function: Body, jobs: deque[tuple[int, Task]]) -> None:
        while len(self._workers) < min(self.num_workers, len(jobs) + sum(worker.job is not None for worker in self._workers)):
            self._workers.append(_Worker())
        for worker in self._workers:
            if worker.job is None and jobs:
                worker.give(function, *jobs.popleft())

    def _collect(self, results: dict[int, dict[str, Any]], failed: list[tuple[int, Task, str]]) -> None:
        """Wait for a sign of any worker; take results, and note the jobs of dead and hung workers."""
        busy = {worker.pipe: worker for worker in self._workers if worker.job}
        ready = wait(list(busy), timeout=1.0)
        for pipe in ready:
            worker = busy[pipe]  # type: ignore[index]
            outcome = self._receive(worker)
            if outcome is None:
                continue
            number, task = worker.job  # type: ignore[misc]
            worker.job = None
            if isinstance(outcome, str):
                self._discard(worker)
                failed.append((number, task, outcome))
            else:
                results[number] = outcome
        for worker in [w for w in busy.values() if w.job and time.monotonic() - w.last_sign > self._timeout]:
            number, task = worker.job  # type: ignore[misc]
            self._discard(worker)
            failed.append((number, task, f"showed no progress for {self._timeout:.0f} s"))

    def _receive(self, worker: _Worker) -> dict[str, Any] | str | None:
        """Return a result, what killed the worker, or None for a sign of progress. Raises what the task raised."""
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):  # OSError: it died inside a message
            return f"died ({_exit_text(worker)})"
        worker.last_sign = time.monotonic()
        if kind == "progress":
            progress.tick(value)
            return None
        if kind == "place":
            worker.place = value
            return None
        if kind == "error":
            raise rebuild_error(*value)
        result: dict[str, Any] | str = value
        return result

    def alone(self, function: Body, task: Task) -> dict[str, Any]:
        """Run a task in a fresh worker with nothing beside it. Raises LostTaskError where the worker dies or hangs."""
        results: dict[int, dict[str, Any]] = {}
        failed: list[tuple[int, Task, str]] = []
        worker = _Worker()
        self._workers.append(worker)
        worker.give(function, 0, task)
        while not results and not failed:
            self._collect(results, failed)
        if failed:
            raise LostTaskError(task, failed[0][2], worker.place)
        self._discard(worker)
        return results[0]

    def _discard(self, worker: _Worker) -> None:
        worker.end()
        self._workers.remove(worker)

    def close(self) -> None:
        """End every worker."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()


def _exit_text(worker: _Worker) -> str:
    """Say how a process ended whose pipe is closed; one that lives on without its pipe is killed."""
    try:
        code = worker.process.wait(timeout=1)
    except subprocess.TimeoutExpired:
        worker.process.kill()
        code = worker.process.wait()
    if code == -signal.SIGKILL:
        return "SIGKILL: the system may have run out of memory"
    if code < 0:
        return f"signal {-code}: {signal.strsignal(-code)}"
    return f"exit code {code}"


def serve(descriptor: int, parent: int, modules: Sequence[str]) -> None:
    """A worker's whole life: take a task, run it, send what it returned or raised. `modules` define steps from outside."""
    pipe = Connection(descriptor)
    _die_with_parent(parent)
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    progress.forward(lambda count: pipe.send(("progress", count)))
    progress.forward_places(lambda place: pipe.send(("place", place)))
    _bound_memory()
    while True:
        try:
            pipe.send_bytes(_perform(pipe.recv_bytes(), modules))
        except (EOFError, ConnectionError):
            return


def _perform(message: bytes, modules: Sequence[str]) -> bytes:
    """Carry out one job; whatever it raises travels to the parent, which raises it there."""
    try:
        import_steps(modules)
        function, task = pickle.loads(message)
        return pickle.dumps(("result", function(task)))
    except MemoryError:
        return pickle.dumps(("result", "ran out of memory"))
    except Exception as error:
        return pickle.dumps(("error", describe_error(error)))


def _bound_memory() -> None:
    """Keep a worker to the memory that SFTDATA_WORKER_MEMORY gives it, and let the system end it before the build itself.

    Only memory of its own counts, not the files that it maps.
    """
    with contextlib.suppress(OSError):  # not on Linux
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    limit = memory_setting()
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit * 2**20),) * 2)


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies, so that a killed build leaves no worker behind."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, prctl(2)
    if os.getppid() != parent:
        os._exit(1)


def run_alone(function: Body, task: Task) -> dict[str, Any]:
    """Run one task in a process of its own, which is watched. Raises LostTaskError where it dies or hangs."""
    executor = ProcessExecutor(1)
    try:
        return executor.alone(function, task)
    finally:
        executor.close()


def local_executor(num_workers: int) -> SerialExecutor | ProcessExecutor:
    """Return the executor for a number of workers: one worker means this very process."""
    return SerialExecutor() if num_workers <= 1 else ProcessExecutor(num_workers)
