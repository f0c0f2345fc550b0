"""`--resume`: a run that was stopped anywhere goes on as if it never had been, or says why it cannot."""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.__main__ import MEMORY_DISK
from resuming import crashes, steps
from safetensors.torch import load_file
from train_fixture import Build, counting_rows, silent, tiny_settings, write_build

from sftdata import failpoints, storage
from sftdata.errors import DamagedError, StorageError, TrainingError
from sftdata.trainer import TrainResult, TrainSettings, checkpoints, run
from sftdata.trainer.keeping import Keeper
from sftdata.trainer.watch import RunWatch

SPLITS = {"train": counting_rows(10), "validation": counting_rows(2, first=5)}


class Stopped(Exception):
    """Stands for a machine that goes away."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_build(tmp_path_factory.mktemp("shards") / "build", Build(SPLITS))


def settings(**changes: Any) -> TrainSettings:
    """Return settings of ten steps over three epochs, with noise, and a checkpoint after every step."""
    values = {"micro_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 8, "save_steps": 1, "save_total_limit": 9}
    return tiny_settings(**{**values, "dropout": 0.1, "eval_steps": 3, "logging_steps": 2, **changes})


@pytest.fixture(scope="module")
def whole(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run of eight steps that nothing stopped, with all its checkpoints."""
    return run(shards, tmp_path_factory.mktemp("whole") / "model", settings(), silent)


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return load_file(result.out / "model.safetensors")


def same_weights(found: TrainResult, expected: TrainResult) -> bool:
    first, second = weights(found), weights(expected)
    assert len(first) > 10
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def stand_at(whole: TrainResult, folder: Path, step: int) -> Path:
    """Lay the checkpoints of the whole run up to `step` beside an output that is not there yet."""
    target = checkpoints.folder_of(folder / "model")
    storage.make_folder(target)
    for number in range(1, step + 1):
        os.symlink(checkpoints.folder_of(whole.out) / checkpoints.step_name(number), target / checkpoints.step_name(number))
    return folder / "model"


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 8])
def test_a_resumed_run_ends_with_the_same_weights_curve_and_samples(
    shards: Path, whole: TrainResult, tmp_path: Path, step: int
) -> None:
    lines: list[str] = []
    resumed = run(shards, stand_at(whole, tmp_path, step), settings(), lines.append, resume=True)
    assert any(line.startswith(f"resuming after step {step} of 8") for line in lines)
    assert resumed.steps == 8 and same_weights(resumed, whole)
    assert resumed.curves.read_bytes() == whole.curves.read_bytes()
    assert resumed.samples == whole.samples and [sample.step for sample in resumed.samples] == [0, 8]


def test_resuming_reads_no_row_of_the_steps_before(
    shards: Path, whole: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    started = RunWatch.step_started
    monkeypatch.setattr(RunWatch, "step_started", lambda self, step, rows: (seen.append(step), started(self, step, rows))[1])
    run(shards, stand_at(whole, tmp_path, 5), settings(), silent, resume=True)
    assert seen == [6, 7, 8]


@pytest.mark.parametrize(("micro", "accumulation"), [(1, 4), (4, 1)])
def test_another_split_of_the_batch_gives_the_same_curve(shards: Path, tmp_path: Path, micro: int, accumulation: int) -> None:
    changes = {"dropout": None, "save_steps": 4, "logging_steps": 1}
    expected = run(shards, tmp_path / "expected", settings(**changes), silent)
    other = settings(**changes, micro_batch_size=micro, gradient_accumulation_steps=accumulation)
    out = stand_at(expected, tmp_path, 0)
    os.symlink(checkpoints.folder_of(expected.out) / "step-00000004", checkpoints.folder_of(out) / "step-00000004")
    found = run(shards, out, other, silent, resume=True)
    curves = [json.loads(result.curves.read_text("utf-8")) for result in (found, expected)]
    assert len(curves[0]) == 9
    for point, same in zip(*curves, strict=True):
        assert point["train_loss"] == pytest.approx(same["train_loss"], abs=1e-5)


def test_changed_settings_or_data_are_refused_by_name(shards: Path, whole: TrainResult, tmp_path: Path) -> None:
    out = stand_at(whole, tmp_path, 3)
    cases = [
        ({"learning_rate": 1e-3}, r"train.learning_rate was 0.01 and is 0.001"),
        ({"max_steps": 9}, r"train.max_steps was 8 and is 9 \(and 1 more\)"),
        ({"micro_batch_size": 4}, r"rows a step was 4 and is 8"),
    ]
    for changes, words in cases:
        with pytest.raises(TrainingError, match=words) as caught:
            run(shards, out, settings(**changes), silent, resume=True)
        assert "\n" not in str(caught.value) and "without --resume" in str(caught.value)
    other = write_build(tmp_path / "other", Build({**SPLITS, "train": counting_rows(10, first=1)}))
    with pytest.raises(TrainingError, match="the data changed"):
        run(other, out, settings(), silent, resume=True)


def test_saving_may_change_unless_validation_decides_something() -> None:
    plain, best = tiny_settings(save_steps=5), tiny_settings(save_steps=5, load_best_model_at_end=True)
    for chosen, matters in ((plain, False), (best, True)):
        kept = checkpoints.identity("", asdict(chosen), {})["settings"]
        assert ("save_steps" in kept) == matters and "learning_rate" in kept and "micro_batch_size" not in kept


def test_missing_optimiser_state_is_refused(shards: Path, whole: TrainResult, tmp_path: Path) -> None:
    out = tmp_path / "model"
    source = checkpoints.folder_of(whole.out) / checkpoints.step_name(3)
    record = checkpoints.verified(source).record

    def fill(folder: Path) -> None:
        for path in source.iterdir():
            if path.name not in (checkpoints.STATE, checkpoints.RECORD):
                os.link(path, folder / path.name)

    checkpoints.write(checkpoints.folder_of(out), checkpoints.step_name(3), record, fill)
    with pytest.raises(TrainingError, match="holds no optimiser state"):
        run(shards, out, settings(), silent, resume=True)


def test_a_flipped_bit_is_found_and_the_checkpoint_before_it_used(shards: Path, tmp_path: Path) -> None:
    expected = run(shards, tmp_path / "model", settings(save_steps=4), silent)
    newest = checkpoints.folder_of(expected.out) / checkpoints.step_name(8)
    for name in (checkpoints.STATE, "model.safetensors", checkpoints.RECORD):
        path = newest / name
        data = path.read_bytes()
        path.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        lines: list[str] = []
        found = run(shards, tmp_path / "model", settings(save_steps=0), lines.append, resume=True)
        assert any(line.startswith("passed over:") and name in line for line in lines)
        assert any("resuming after step 4" in line for line in lines)
        assert found.steps == 8
        path.write_bytes(data)


def test_only_damaged_checkpoints_are_an_error_and_none_is_not(shards: Path, whole: TrainResult, tmp_path: Path) -> None:
    lines: list[str] = []
    assert run(shards, tmp_path / "model", settings(max_steps=1, save_steps=0), lines.append, resume=True).steps == 1
    assert any("holds no checkpoint; starting at step 0" in line for line in lines)
    (checkpoints.folder_of(tmp_path / "other") / "step-00000001").mkdir(parents=True)
    with pytest.raises(DamagedError, match="none of the 1 checkpoints is whole"):
        run(shards, tmp_path / "other", settings(), silent, resume=True)


def test_an_adapter_resumes_exactly(shards: Path, whole: TrainResult, tmp_path: Path) -> None:
    lora = settings(model=None, base_model=str(whole.out), adapter="lora", lora_dropout=0.1, max_steps=6, save_steps=3)
    expected = run(shards, tmp_path / "model", lora, silent)
    tensors = [load_file(expected.out / "adapter_model.safetensors")]
    storage.remove_tree(checkpoints.folder_of(expected.out) / checkpoints.step_name(6))
    resumed = run(shards, tmp_path / "model", lora, silent, resume=True)
    tensors.append(load_file(resumed.out / "adapter_model.safetensors"))
    assert len(tensors[0]) > 10
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_a_run_that_is_stopped_while_saving_resumes_from_the_checkpoint_before(
    shards: Path, whole: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Keeper.checkpoint

    def stop_at_four(self: Keeper, step: int) -> Path:
        if step == 4:
            raise Stopped
        return write(self, step)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Keeper, "checkpoint", stop_at_four)
        run(shards, tmp_path / "model", settings(), silent)
    assert not (tmp_path / "model").exists()
    assert same_weights(run(shards, tmp_path / "model", settings(), silent, resume=True), whole)


@pytest.mark.parametrize(("save_steps", "words"), [(2, r"with --resume goes on from .*step-00000002"), (0, "no checkpoint")])
def test_a_run_that_the_user_stops_says_how_to_go_on(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_steps: int, words: str
) -> None:
    started = RunWatch.step_started

    def stop_in_four(self: RunWatch, step: int, rows: list[int]) -> None:
        started(self, step, rows)
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunWatch, "step_started", stop_in_four)
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run(shards, tmp_path / "model", settings(save_steps=save_steps), lines.append)
    assert re.search(f"stopped in step 4 of 8; .*{words}", lines[-1]) and not (tmp_path / "model").exists()


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder on a disk in memory, where there is one: forty checkpoints would wait for the disk most of the time."""
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK if os.access(MEMORY_DISK, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def forty(memory: Path) -> tuple[Path, Path]:
    """Shards, and the folder of a run of forty steps with a checkpoint after each."""
    folder = memory / "forty"
    folder.mkdir()
    shards = steps.shards_in(folder)
    steps.write_whole(folder, steps.whole_run(shards, folder))
    return shards, folder


@pytest.mark.parametrize("split", [split for split in steps.SPLITS if split.num_processes == 1], ids=str)
def test_forty_steps_resume_with_the_same_batches_under_other_splits(forty: tuple[Path, Path], split: steps.Split) -> None:
    """`make resume` does so after every step, and with two processes too."""
    found = steps.outcome("resumed", *forty, split, (17, 39))
    assert found.problems == [] and found.tried == 2


def test_a_run_killed_or_failing_within_a_checkpoint_resumes_from_a_whole_one(memory: Path) -> None:
    """`make resume` does so at every operation."""
    scene = crashes.open_scene(memory / "crashes")
    names = {line.split()[0] for line in scene.operations}
    assert names == {"mkdir", "create", "write", "fsync", "rename", "fsync_folder", "remove"}
    before = next(number for number, line in enumerate(scene.operations, 1) if line.startswith("rename step-"))
    outcomes = [
        crashes.at_operations(scene, "kill", (before, len(scene.operations))),
        crashes.at_operations(scene, "eio", (before,)),
        crashes.half_written(scene, (checkpoints.STATE,)),
        crashes.too_large(scene, (60_000,)),
    ]
    assert [found.problems for found in outcomes] == [[]] * 4 and sum(found.tried for found in outcomes) == 5


def fill_small(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights" * 20)
    (folder / checkpoints.STATE).write_bytes(b"state" * 20)


def save(folder: Path, step: int) -> None:
    checkpoints.write(folder, checkpoints.step_name(step), {"step": step}, fill_small)
    checkpoints.keep_newest(folder, 2)


def at_failpoint(monkeypatch: pytest.MonkeyPatch, value: str, log: str = "") -> None:
    """Set the failpoint of this process, and count anew."""
    monkeypatch.setenv("SFTDATA_FAILPOINT", value)
    monkeypatch.setenv("SFTDATA_FAILPOINT_LOG", log)
    failpoints._failpoint.cache_clear()


def num_operations(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    for step in (1, 2):
        save(folder, step)
    at_failpoint(monkeypatch, "", str(folder / "log"))
    save(folder, 3)
    at_failpoint(monkeypatch, "")
    return len((folder / "log").read_text("utf-8").splitlines())


def test_a_kill_at_any_operation_of_a_checkpoint_leaves_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = num_operations(tmp_path / "count", monkeypatch)
    assert count > 12
    found: set[int] = set()
    for number in range(1, count + 1):
        folder = tmp_path / str(number)
        for step in (1, 2):
            save(folder, step)
        child = os.fork()
        if child == 0:
            at_failpoint(monkeypatch, f"any:{number}:kill")
            save(folder, 3)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        newest = checkpoints.newest(folder, silent)
        assert newest is not None
        found.add(newest.step)
        save(folder, 3)
        assert [path.name for path in sorted(folder.glob("*"))] == [checkpoints.step_name(step) for step in (2, 3)]
        assert not list(folder.glob(".*.tmp-*"))
    assert found == {2, 3}


@pytest.mark.parametrize("action", ["enospc", "eio", "short"])
def test_a_failed_operation_of_a_checkpoint_is_one_line_and_leaves_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    count = num_operations(tmp_path / "count", monkeypatch)
    failed = 0
    for number in range(1, count + 1):
        folder = tmp_path / str(number)
        save(folder, 1)
        at_failpoint(monkeypatch, f"any:{number}:{action}")
        try:
            save(folder, 2)
        except StorageError as error:
            failed += 1
            assert "\n" not in str(error)
        at_failpoint(monkeypatch, "")
        newest = checkpoints.newest(folder, silent)
        assert newest is not None and newest.step in (1, 2)
    assert failed >= (1 if action == "short" else 8)
