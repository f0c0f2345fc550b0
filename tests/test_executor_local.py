"""The local executor: the same results from any number of workers, and no death or hang of one stops or falsifies a build."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import executor_bodies as bodies
import pytest
from child_process import end_child, run_child, start_child

from sftdata import progress, registry
from sftdata.errors import DataError, SftdataError, WorkerError
from sftdata.executors.jobs import available_cores
from sftdata.executors.local import ProcessExecutor, SerialExecutor, local_executor
from sftdata.work import Task


@pytest.fixture(scope="module")
def executor() -> Iterator[ProcessExecutor]:
    executor = ProcessExecutor(2)
    yield executor
    executor.close()


def tasks(*names: object, folder: Path = Path(), **spec: object) -> list[Task]:
    return [Task("prepare", str(name), f"{name}", str(folder), spec) for name in names]


def wait_until(condition: Callable[[], bool]) -> bool:
    """Wait for what must come; a minute is only reached where it does not."""
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.1)
    return False


def is_alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_two_workers_give_what_one_gives_in_the_same_order(executor):
    serial = list(SerialExecutor().map(bodies.square, tasks(*range(20))))
    parallel = list(executor.map(bodies.square, tasks(*range(20))))
    assert [result["square"] for result in serial] == [number**2 for number in range(20)]
    assert [result["square"] for result in parallel] == [number**2 for number in range(20)]
    processes = {result["process"] for result in parallel}
    assert len(processes) == 2 and os.getpid() not in processes


def test_workers_are_kept_for_the_next_map_and_no_more_start_than_tasks(executor):
    assert list(executor.map(bodies.square, [])) == []
    [first] = executor.map(bodies.square, tasks(1))
    [again] = executor.map(bodies.square, tasks(2))
    assert first["process"] == again["process"] != os.getpid()


@pytest.mark.parametrize("body", [bodies.raise_data_error, bodies.raise_own_error])
def test_error_of_ours_arrives_as_its_class(executor, body):
    with pytest.raises(DataError, match=r"^7: (cannot be read|is odd)$"):
        list(executor.map(body, tasks(7)))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (bodies.raise_key_error, "KeyError: '7'"),
        (bodies.raise_end_of_file, "EOFError: inside the task"),
        (bodies.return_no_json, "pickle"),
    ],
)
def test_any_other_error_arrives_with_its_traceback(executor, body, text):
    with pytest.raises(RuntimeError, match=text) as caught:
        list(executor.map(body, tasks(7)))
    assert "Traceback" in str(caught.value)


def test_executor_is_usable_after_an_error(executor):
    with pytest.raises(DataError):
        list(executor.map(bodies.raise_data_error, tasks(*range(6))))
    assert [result["square"] for result in executor.map(bodies.square, tasks(*range(6)))] == [0, 1, 4, 9, 16, 25]


def test_map_that_is_left_early_gives_nothing_to_the_next(executor):
    results = executor.map(bodies.square, tasks(*range(50, 60)))
    assert next(results)["square"] == 2500
    with pytest.raises(RuntimeError, match="another map"):
        next(executor.map(bodies.square, tasks(1)))
    results.close()
    assert [result["square"] for result in executor.map(bodies.square, tasks(*range(5)))] == [0, 1, 4, 9, 16]


@pytest.mark.parametrize("how", ["kill", "exit", "hang"])
def test_task_whose_worker_is_lost_once_is_done_alone(tmp_path, how):
    executor = ProcessExecutor(2, timeout=2.0)
    names = ["a", "bad", *"bcdef"]
    try:
        results = list(executor.map(bodies.fail_once, tasks(*names, folder=tmp_path, how=how, always=False)))
    finally:
        executor.close()
    assert (tmp_path / "attempted").exists()
    assert [result["name"] for result in results] == names
    times = [line.split() for line in (tmp_path / "times").read_text().splitlines()]
    assert sorted(name for name, _, _ in times) == sorted(names)
    [alone] = [float(begin) for name, begin, _ in times if name == "bad"]
    assert all(float(end) <= alone for name, _, end in times if name != "bad")


@pytest.mark.parametrize(
    ("how", "why"), [("kill", "died .SIGKILL"), ("exit", "died .exit code 3"), ("hang", "showed no progress for 2 s")]
)
def test_task_whose_worker_is_lost_twice_is_named(tmp_path, how, why):
    executor = ProcessExecutor(2, timeout=2.0)
    try:
        with pytest.raises(WorkerError, match=f"^prepare bad: the worker {why}.*, and again when the task was tried alone$"):
            list(executor.map(bodies.fail_once, tasks("a", "bad", "b", folder=tmp_path, how=how, always=True)))
    finally:
        executor.close()
    assert {line.split()[0] for line in (tmp_path / "times").read_text().splitlines()} == {"a", "b"}


def test_worker_that_loses_its_pipe_counts_as_dead(tmp_path):
    executor = ProcessExecutor(1)
    try:
        [result] = executor.map(bodies.fail_once, tasks("bad", folder=tmp_path, how="close", always=False))
        assert result == {"name": "bad"}
    finally:
        executor.close()
    assert (tmp_path / "attempted").exists()


def test_idle_worker_that_was_killed_is_replaced(executor):
    [first] = executor.map(bodies.square, tasks(1))
    os.kill(first["process"], signal.SIGKILL)
    assert wait_until(lambda: not is_alive(first["process"]))
    results = list(executor.map(bodies.square, tasks(*range(4))))
    assert [result["square"] for result in results] == [0, 1, 4, 9]
    assert first["process"] not in {result["process"] for result in results}


def test_slow_worker_that_shows_progress_is_left_alone():
    executor = ProcessExecutor(2, timeout=2.0)
    counts: list[int] = []
    end = progress.forward(counts.append)
    try:
        results = list(executor.map(bodies.work_slowly, tasks(1, 2)))
    finally:
        end()
        executor.close()
    assert len({result["process"] for result in results}) == 2
    assert sum(counts) == 2 * 5 * 5


BUILD = """
import sys
from pathlib import Path
import executor_bodies as bodies
from sftdata.executors.local import ProcessExecutor
from sftdata.work import Task
print("started", flush=True)
executor = ProcessExecutor(2)
list(executor.map(bodies.sleep_long, [Task("prepare", str(number), "", sys.argv[1], {}) for number in range(2)]))
"""


def test_workers_die_with_a_parent_that_is_killed(tmp_path):
    parent = start_child(BUILD, tmp_path)
    try:
        assert wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        workers = [int(path.name) for path in tmp_path.iterdir()]
        assert all(map(is_alive, workers))
    finally:
        end_child(parent)
    assert wait_until(lambda: not any(map(is_alive, workers)))


def test_script_without_a_main_guard_can_use_workers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, executor_bodies\nprint('started')\n"
        "from sftdata.executors.local import ProcessExecutor\nfrom sftdata.work import Task\n"
        "executor = ProcessExecutor(2)\n"
        "jobs = [Task('prepare', str(number), '', '', {}) for number in range(5)]\n"
        "print([result['square'] for result in executor.map(executor_bodies.square, jobs)])\nexecutor.close()\n"
        "try:\n    os.waitpid(-1, os.WNOHANG)\nexcept ChildProcessError:\n    print('no child is left')\n"
    )
    child = run_child(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')")
    assert child.stdout.splitlines() == ["started", "[0, 1, 4, 9, 16]", "no child is left"]
    assert child.stderr == "" and child.returncode == 0


def test_interrupt_ends_the_build_without_a_word_from_the_workers(tmp_path):
    errors, folder = tmp_path / "errors", tmp_path / "workers"
    folder.mkdir()
    own_errors = "import os, sys\nos.dup2(os.open(sys.argv.pop(), os.O_CREAT | os.O_WRONLY), 2)\n"
    quiet_end = "\nexcept KeyboardInterrupt:\n    executor.close()\n"
    parent = start_child(own_errors + BUILD.strip().replace("list(exec", "try: list(exec") + quiet_end, folder, errors)
    try:
        assert wait_until(lambda: len(list(folder.iterdir())) == 2)
        workers = [int(path.name) for path in folder.iterdir()]
        for process in (*workers, parent.pid):
            os.kill(process, signal.SIGINT)
        assert parent.wait(timeout=30) == 0
    finally:
        end_child(parent)
    assert not any(map(is_alive, workers)) and errors.read_text() == ""


def test_worker_knows_the_steps_of_modules_from_outside(tmp_path, monkeypatch):
    (tmp_path / "outside_steps.py").write_text(
        "from sftdata.registry import cleaner\n\n@cleaner\ndef shout(text: str) -> str:\n    return text.upper()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_steps", dict(registry._steps))
    importlib.import_module("outside_steps")
    executor = ProcessExecutor(2)
    try:
        assert list(executor.map(bodies.clean_outside, tasks("shout"))) == [{"text": "TEXT"}]
    finally:
        executor.close()
        sys.modules.pop("outside_steps")


def test_one_worker_is_this_process_and_more_are_others(monkeypatch):
    assert isinstance(local_executor(1), SerialExecutor)
    assert isinstance(local_executor(2), ProcessExecutor) and local_executor(2).num_workers == 2
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    monkeypatch.setenv("SFTDATA_WORKER_TIMEOUT", "soon")
    with pytest.raises(SftdataError, match="SFTDATA_WORKER_TIMEOUT=soon: give a number of seconds"):
        ProcessExecutor(2)
