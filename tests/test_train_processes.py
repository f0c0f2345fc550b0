"""Two processes, as `torchrun` starts them, train as one: the same batches, the same loss curve, one model folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from launched import free_port, launch
from train_fixture import Build, counting, counting_rows, silent, tiny_settings, write_build

from sftdata import storage
from sftdata.trainer import checkpoints, run

CHILD = """
import json, sys
from pathlib import Path
from torch import distributed
from train_fixture import tiny_settings
from sftdata import storage
from sftdata.trainer import checkpoints, run
shards, out, resumed, changes = sys.argv[1:]
distributed.init_process_group("gloo")
settings = tiny_settings(**json.loads(changes))
print(json.dumps(run(Path(shards), Path(out), settings, print).steps))
if Path(resumed).parent.is_dir():
    print(json.dumps(run(Path(shards), Path(resumed), settings, print, resume=True).steps))
distributed.destroy_process_group()
"""

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
"""What `accelerate launch --use_fsdp` sets."""

needs_time = pytest.mark.skipif("SFTDATA_SLOW_TESTS" not in os.environ, reason="half a minute; set SFTDATA_SLOW_TESTS")


def curve(folder: Path) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = json.loads((folder / "curves.json").read_text("utf-8"))
    return points


@pytest.mark.parametrize("environment", [pytest.param({}, id="DDP"), pytest.param(FSDP, id="FSDP", marks=needs_time)])
def test_two_processes_draw_the_curve_of_one(tmp_path: Path, environment: dict[str, str]) -> None:
    # 9 rows by 4 leave an update of one row, at which the other process has nothing to train.
    rows = [[counting(3 * row + place, 5 + (row + place) % 5) for place in range(1 + row % 3)] for row in range(9)]
    build = write_build(tmp_path / "build", Build({"train": rows, "validation": counting_rows(3, first=5)}))
    length = {"num_epochs": 2, "save_steps": 3, "max_new_tokens": 2}
    alone = run(build, tmp_path / "alone", tiny_settings(micro_batch_size=4, **length), silent)
    changes = json.dumps({"micro_batch_size": 1, "gradient_accumulation_steps": 2, **length})
    if not environment:  # an optimiser's state is another under FSDP, so that only DDP goes on from a run of one process
        storage.make_folder(tmp_path / "resumed" / "model.checkpoints")
        step = checkpoints.step_name(3)
        os.symlink(checkpoints.folder_of(alone.out) / step, tmp_path / "resumed" / "model.checkpoints" / step)
    folders = [str(tmp_path / name) for name in ("build", "two", "resumed/model")]
    said = launch(CHILD, 2, free_port(), *folders, changes, **environment)
    assert any("a step is 1 rows x 2 x 2 processes" in line for line in said[0].splitlines())
    assert set(said[1].split()) == {"6"}, "the second process reports nothing of its own"
    assert environment or any("resuming after step 3 of 6" in line for line in said[0].splitlines())
    for folder in ("two",) if environment else ("two", "resumed/model"):
        points, expected = curve(tmp_path / folder), curve(alone.out)
        assert len(points) == len(expected) == 7
        for point, same in zip(points, expected, strict=True):
            assert point["train_loss"] == pytest.approx(same["train_loss"], abs=1e-5)
            assert point["validation_loss"] == pytest.approx(same["validation_loss"], abs=1e-5)
    record = json.loads((tmp_path / "two" / "train.json").read_text("utf-8"))
    assert record["processes"] == 2 and (tmp_path / "two" / "model.safetensors").is_file()
    assert sorted(path.name for path in (tmp_path / "two.checkpoints").iterdir()) == ["step-00000003", "step-00000006"]
