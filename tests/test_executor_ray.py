"""The Ray executor: the bytes and errors of the local one, and no death of a worker stops or falsifies a build.

Ray is started in child processes: two workers for the first, where all but the interrupt is tried.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from build_support import file_bytes, write_small_recipe
from child_process import ROOT, run_child

from sftdata.errors import RecipeError, SftdataError, WorkerError
from sftdata.executors.choice import choose_executor
from sftdata.executors.ray import RayExecutor
from sftdata.installation import check_installation, installation

has_ray = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not has_ray, reason="Ray is not installed: pip install 'sftdata[ray]'")

ALL_IN_ONE = """
import json, os, sys
from pathlib import Path
import executor_bodies as bodies
import sftdata
from sftdata.executors.ray import RayExecutor
from sftdata.work import Task
folder = Path(sys.argv[1])

def run(executor, body, names, **spec):
    try:
        return list(executor.map(body, [Task("prepare", str(name), str(name), str(folder), spec) for name in names]))
    except Exception as error:
        return [type(error).__name__, str(error)]

executor = RayExecutor(2)
found = {
    "process": os.getpid(),
    "square": run(executor, bodies.square, range(12)),
    "data_error": run(executor, bodies.raise_data_error, [7]),
    "own_error": run(executor, bodies.raise_own_error, [7]),
    "key_error": run(executor, bodies.raise_key_error, [7]),
    "lost_once": run(executor, bodies.fail_once, ["a", "bad", "b", "c"], how="kill", always=False),
    "lost": run(executor, bodies.fail_once, ["a", "bad", "b"], how="kill", always=True),
    "after": run(executor, bodies.square, [5]),
}
os.environ["SFTDATA_WORKER_TIMEOUT"] = "1"
(folder / "attempted").unlink()
found["hung"] = run(RayExecutor(2), bodies.fail_once, ["a", "bad"], how="hang", always=False)
del os.environ["SFTDATA_WORKER_TIMEOUT"]
found["killed"] = sftdata.build(folder / "recipe.yaml", out=folder / "ray", work_dir=folder / "ray.work",
                                executor="ray", workers=2, allow_code=True).num_reused
found["marked"] = (folder / "marker").exists()
sftdata.build(folder / "recipe.yaml", out=folder / "local", work_dir=folder / "local.work", workers=1, allow_code=True)
executor.close()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of the child that tries everything, and what it found."""
    folder = tmp_path_factory.mktemp("ray")
    cleaner = {"fragile_steps:kill_once": {"marker": str(folder / "marker")}}
    write_small_recipe(folder, clean=[cleaner, "dedup"])
    child = run_child(ALL_IN_ONE, folder, seconds=300)
    assert child.returncode == 0, child.stderr
    assert "Traceback" not in child.stderr
    [line] = child.stdout.splitlines()  # Ray writes nothing of its own to where machine output goes
    return folder, json.loads(line)


@needs_ray
def test_ray_workers_give_results_in_the_order_of_the_tasks(outcome):
    found = outcome[1]
    assert [result["square"] for result in found["square"]] == [number**2 for number in range(12)]
    processes = {result["process"] for result in found["square"]}
    assert len(processes) == 2 and found["process"] not in processes


@needs_ray
def test_errors_of_ray_tasks_are_those_of_the_local_executor(outcome):
    found = outcome[1]
    assert found["data_error"] == ["DataError", "7: cannot be read"]
    assert found["own_error"] == ["DataError", "7: is odd"]
    assert found["key_error"][0] == "RuntimeError" and found["key_error"][1].startswith("KeyError: '7'\nTraceback")
    assert [result["square"] for result in found["after"]] == [25]


@needs_ray
def test_task_whose_ray_worker_is_lost_is_done_again_and_named_when_it_is_lost_alone(outcome):
    found = outcome[1]
    assert [result["name"] for result in found["lost_once"]] == ["a", "bad", "b", "c"]
    assert [result["name"] for result in found["hung"]] == ["a", "bad"]
    kind, text = found["lost"]
    assert kind == "LostTaskError" and text.startswith("prepare bad: the worker died")
    assert text.endswith(", and again when the task was tried alone")


@needs_ray
def test_ray_build_with_a_killed_worker_has_the_bytes_of_a_local_build(outcome):
    folder, found = outcome
    assert found["marked"] and found["killed"] == 0
    ray, local = file_bytes(folder / "ray"), file_bytes(folder / "local")
    assert json.loads(ray["manifest.json"])["splits"]["train"]["rows"] > 3
    assert ray == local


def wait_until(condition: Callable[[], bool]) -> bool:
    """Wait for what must come; a minute is only reached where it does not."""
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.1)
    return False


@needs_ray
def test_interrupt_cancels_a_ray_build_and_its_workers(tmp_path):
    recipe = write_small_recipe(tmp_path / "raw", clean=[{"fragile_steps:sleep_long": {"marker": str(tmp_path / "here")}}])
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    options = ["--executor", "ray", "--workers", "2", "--allow-code", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "sftdata", "build", str(recipe), *options]
    child = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        assert wait_until(lambda: len(list(tmp_path.glob("here.*"))) == 2)
        child.send_signal(signal.SIGINT)
        _, shown = child.communicate(timeout=120)
    finally:
        child.kill()
    workers = [Path("/proc") / path.suffix[1:] for path in tmp_path.glob("here.*")]
    assert child.returncode == 130 and shown.endswith("stopped by Ctrl-C; what was finished is kept\n")
    assert wait_until(lambda: not any(path.exists() for path in workers)) and not (tmp_path / "out").exists()


def test_ray_that_is_missing_is_one_line_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SftdataError, match=r"^--executor ray: Ray is not installed; run: pip install 'sftdata\[ray\]'$"):
        RayExecutor(2)


@needs_ray
def test_cluster_that_does_not_answer_is_one_line():
    child = run_child("from sftdata.executors.ray import RayExecutor\nRayExecutor(None, '127.0.0.1:9')")
    assert child.returncode == 1
    assert child.stderr.splitlines() == ["SftdataError: ray: no cluster at 127.0.0.1:9: Connection refused; is it running?"]


def test_executor_that_nobody_knows_and_an_address_without_ray_are_refused():
    with pytest.raises(RecipeError, match="executor: 'slurm'; known: local, ray"):
        choose_executor(None, 0, "slurm")
    with pytest.raises(RecipeError, match="has no meaning under executor: local"):
        choose_executor(None, 0, "local", "auto")


def test_worker_with_another_installation_is_refused_with_what_differs():
    check_installation(installation())
    assert {"Python", "pyarrow", "the code of sftdata"} <= set(installation())
    with pytest.raises(WorkerError, match=r"pyarrow .* \(planned with 1\.0\); install the same on every machine"):
        check_installation({**installation(), "pyarrow": "1.0"})
