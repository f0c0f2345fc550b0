"""Two processes, as `torchrun` starts them, train as one: the same batches, the same loss curve, one model folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from child_process import ROOT
from train_fixture import Build, counting, counting_rows, silent, tiny_settings, write_build

from sftdata.trainer import run

CHILD = """
import json, sys
from pathlib import Path
from train_fixture import tiny_settings
from sftdata.trainer import run
shards, out, changes = sys.argv[1:]
print(json.dumps(run(Path(shards), Path(out), tiny_settings(**json.loads(changes)), print).steps))
"""

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
"""What `accelerate launch --use_fsdp` sets."""

needs_time = pytest.mark.skipif("SFTDATA_SLOW_TESTS" not in os.environ, reason="half a minute; set SFTDATA_SLOW_TESTS")


def launch(world_size: int, port: int, *arguments: str, **environment: str) -> list[str]:
    """Run the code in processes that know of one another, as a launcher does; returns what each printed."""
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    every = {"PYTHONPATH": paths, "WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments],
            env={**os.environ, **every, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world_size)
    ]
    try:
        found = [child.communicate(timeout=120) for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()
    assert all(child.returncode == 0 for child in children), "\n".join(err for _, err in found)
    return [out for out, _ in found]


def curve(folder: Path) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = json.loads((folder / "curves.json").read_text("utf-8"))
    return points


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("environment", [pytest.param({}, id="DDP"), pytest.param(FSDP, id="FSDP", marks=needs_time)])
def test_two_processes_draw_the_curve_of_one(tmp_path: Path, environment: dict[str, str]) -> None:
    # 9 rows by 4 leave an update of one row, at which the other process has nothing to train.
    rows = [[counting(3 * row + place, 5 + (row + place) % 5) for place in range(1 + row % 3)] for row in range(9)]
    build = write_build(tmp_path / "build", Build({"train": rows, "validation": counting_rows(3, first=5)}))
    length = {"num_epochs": 2, "save_steps": 3, "max_new_tokens": 2}
    alone = run(build, tmp_path / "alone", tiny_settings(micro_batch_size=4, **length), silent)
    changes = json.dumps({"micro_batch_size": 1, "gradient_accumulation_steps": 2, **length})
    said = launch(2, free_port(), str(build), str(tmp_path / "two"), changes, **environment)
    assert any("a step is 1 rows x 2 x 2 processes" in line for line in said[0].splitlines())
    assert said[1] == "6\n", "the second process reports nothing of its own"
    points, expected = curve(tmp_path / "two"), curve(alone.out)
    assert len(points) == len(expected) == 7
    for point, same in zip(points, expected, strict=True):
        assert point["train_loss"] == pytest.approx(same["train_loss"], abs=1e-5)
        assert point["validation_loss"] == pytest.approx(same["validation_loss"], abs=1e-5)
    record = json.loads((tmp_path / "two" / "train.json").read_text("utf-8"))
    assert record["processes"] == 2 and (tmp_path / "two" / "model.safetensors").is_file()
    assert sorted(path.name for path in (tmp_path / "two.checkpoints").iterdir()) == ["step-00000003", "step-00000006"]
