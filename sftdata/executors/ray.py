"""The Ray executor: the same task descriptors as Ray tasks, on this machine or on a cluster that shares the work folder.

Ray carries names and options, never data. At most `num_workers` tasks are in flight. A task whose worker or node is lost goes
back into the queue once, is then tried alone, and is then named in an error: Ray's own retries are off, since they would let a
task that eats up the memory do so again beside the others.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sftdata import progress
from sftdata.environment import LostTaskError
from sftdata.errors import SftdataError, WorkerError
from sftdata.executors.jobs import (
    Body,
    available_cores,
    describe_error,
    import_steps,
    rebuild_error,
    timeout_setting,
)
from sftdata.installation import check_installation, installation
from sftdata.registry import outside_modules
from sftdata.work import Task

Job = tuple[int, Task]

OBJECT_STORE = 100 << 20
"""Bytes of a local Ray's object store, near the least that it takes: nothing but names and counts goes through it."""

CONNECT_SECONDS = 10.0

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would send a report over the network
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns about a coming change that concerns accelerators
    "RAY_DEDUP_LOGS": "1",  # else the next is without effect
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # it would write about lost workers to standard output, where machine output may go
}
"""Environment variables of Ray, read when it is imported."""


def _ray() -> Any:
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise SftdataError("--executor ray: Ray is not installed; run: pip install 'sftdata[ray]'") from error
    return ray


class RayExecutor:
    """Runs tasks on Ray; one map at a time.

    `num_workers` None means every core: of this machine, or with `address` (`auto`, `HOST:PORT` or `ray://HOST:PORT`) of the
    cluster. Raises SftdataError where Ray is not installed or the cluster cannot be reached.
    """

    def __init__(self, num_workers: int | None = None, address: str | None = None) -> None:
        self._ray = _ray()
        self._owns = not self._ray.is_initialized()
        if self._owns:
            _start(self._ray, num_workers, address)
        self.num_workers = num_workers or max(int(self._ray.cluster_resources().get("CPU", 1)), 1)
        self._shared = (outside_modules(), installation(), timeout_setting())
        self._remote = self._ray.remote(num_cpus=1, max_retries=0)(_carry_out)

    def map(self, function: Body, tasks: Iterable[Task]) -> Iterator[dict[str, Any]]:
        """Yield the result of each task, in the order of the tasks.

        Raises what a task raised; LostTaskError where the worker of a task was lost three times, the last time alone.
        """
        waiting = deque(enumerate(tasks))
        suspects: deque[Job] = deque()
        num_losses: Counter[int] = Counter()
        running: dict[Any, Job] = {}
        results: dict[int, dict[str, Any]] = {}
        try:
            for number in range(len(waiting)):
                while number not in results:
                    while waiting and len(running) < self.num_workers:
                        self._submit(function, waiting.popleft(), running)
                    if not running:
                        self._submit(function, suspects.popleft(), running)
                    for job, why in self._collect(running, results):
                        num_losses[job[0]] += 1
                        if num_losses[job[0]] > 2:
                            raise LostTaskError(job[1], why)
                        (waiting if num_losses[job[0]] == 1 else suspects).append(job)
                yield results.pop(number)
        finally:
            for reference in running:
                with contextlib.suppress(Exception):  # it is over already, or the cluster is gone
                    self._ray.cancel(reference, force=True)

    def _submit(self, function: Body, job: Job, running: dict[Any, Job]) -> None:
        running[self._remote.options(name=f"sftdata {job[1].stage}").remote(function, job[1], *self._shared)] = job

    def _collect(self, running: dict[Any, Job], results: dict[int, dict[str, Any]]) -> list[tuple[Job, str]]:
        """Wait until a task ends; take the results of all that have, and return those whose worker was lost, with why.

        Raises what a task raised.
        """
        ended, _ = self._ray.wait(list(running), num_returns=1, timeout=1.0)
        lost = []
        for reference in ended:
            job = running.pop(reference)
            outcome = self._outcome(reference)
            if isinstance(outcome, str):
                lost.append((job, outcome))
            elif outcome[0] == "error":
                raise rebuild_error(*outcome[1])
            else:
                results[job[0]] = outcome[1]
                progress.tick(outcome[2])
        return lost

    def _outcome(self, reference: Any) -> tuple[Any, ...] | str:
        """Return what a task returned, or how its worker was lost."""
        problems = self._ray.exceptions
        try:
            found: tuple[Any, ...] = self._ray.get(reference)
            return found[1] if found[0] == "lost" else found
        except problems.OutOfMemoryError:
            return "was killed: its node ran out of memory"
        except (problems.NodeDiedError, problems.LocalRayletDiedError):
            return "died with its node"
        except problems.WorkerCrashedError:
            return "died or hung"
        except problems.RayError as error:
            raise WorkerError(f"ray: {_first_line(error)} (is sftdata installed on every node?)") from error

    def close(self) -> None:
        """Leave Ray, and end it where it was started here."""
        if self._owns and self._ray.is_initialized():
            self._ray.shutdown()


def _start(ray: Any, num_workers: int | None, address: str | None) -> None:
    """Start Ray on this machine, or connect to a cluster."""
    common = {"configure_logging": False, "log_to_driver": False, "logging_level": logging.ERROR}
    logging.getLogger("ray").setLevel(logging.ERROR)
    if address:
        _check_listening(address)
    before = signal.getsignal(signal.SIGTERM)
    local = {"num_cpus": num_workers or available_cores(), "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    try:
        ray.init(address=address, **common) if address else ray.init(address="local", **local, **common)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise SftdataError(f"ray: no cluster at {address}: {_first_line(error)}" if address else f"ray: {error}") from error
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray's own, which raises SystemExit, stays only where there was none


def _check_listening(address: str) -> None:
    """Raise SftdataError where nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise SftdataError(f"ray: no cluster at {address}: {error.strerror or error}; is it running?") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if len(lines) > 1 and "Traceback" in str(error) else (lines or [type(error).__name__])[0]


def _carry_out(
    function: Body, task: Task, modules: Sequence[str], expected: dict[str, str], timeout: float
) -> tuple[Any, ...]:
    """Carry out one task in a Ray worker; return ("result", value, rows done), ("error", what it raised) or ("lost", why).

    A worker that shows no progress for `timeout` seconds ends itself, by a thread that needs no interpreter lock.
    """
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    num_rows = 0

    def sign(count: int) -> None:
        nonlocal num_rows
        num_rows += count
        faulthandler.dump_traceback_later(timeout, exit=True, file=sys.__stderr__ or sys.stderr)

    sign(0)
    stop = progress.forward(sign)
    try:
        check_installation(expected)
        import_steps(modules)
        return "result", function(task), num_rows
    except MemoryError:
        return "lost", "ran out of memory"
    except Exception as error:
        return "error", describe_error(error)
    finally:
        stop()
        faulthandler.cancel_dump_traceback_later()
