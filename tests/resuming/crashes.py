"""A run that is killed, or whose disk fails, at every operation of a checkpoint: it resumes from one that is whole."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from faults.trials import Outcome, Problems
from train_fixture import Build, counting_rows, silent, tiny_settings, write_build

from sftdata import failpoints
from sftdata.errors import SftdataError, StorageError
from sftdata.trainer import TrainSettings, checkpoints, run, saving
from sftdata.trainer.keeping import Keeper

CRASHED = 3
"""The step whose checkpoint is disturbed: one of two before it has to go."""
ACTIONS = ("kill", "enospc", "eio", "short")
HALF_WRITTEN = ("model.safetensors", "config.json", "tokenizer.json", checkpoints.STATE)
"""Files that libraries write, without our failpoints."""


class Scene(NamedTuple):
    """A run of four steps with a checkpoint after each, of which two are kept."""

    shards: Path
    folder: Path
    weights: bytes
    curve: bytes
    operations: list[str]
    """Names of the storage operations of the third checkpoint."""


def settings() -> TrainSettings:
    """Return the settings of the scene."""
    return tiny_settings(micro_batch_size=2, max_steps=4, save_steps=1, dropout=0.1, max_new_tokens=1)


def open_scene(folder: Path) -> Scene:
    """Make the run that nothing disturbs, and note the operations of its third checkpoint."""
    splits = {"train": counting_rows(6), "validation": counting_rows(2, first=5)}
    shards = write_build(folder / "shards", Build(splits))
    log = folder / "log"
    train_disturbed(shards, "", folder / "whole", str(log))
    operations = log.read_text("utf-8").splitlines()
    weights, curve = (folder / "whole" / "model.safetensors").read_bytes(), (folder / "whole" / "curves.json").read_bytes()
    return Scene(shards, folder, weights, curve, operations)


def train_disturbed(shards: Path, failpoint: str, out: Path, log: str = "") -> None:
    """Train with a failpoint, or a log of operations, that counts from the beginning of the third checkpoint to its end."""
    write = Keeper.checkpoint

    def disturbed(self: Keeper, step: int) -> Path:
        set_failpoint(failpoint if step == CRASHED else "", log if step == CRASHED else "")
        try:
            return write(self, step)
        finally:
            set_failpoint("")

    Keeper.checkpoint = disturbed  # type: ignore[method-assign]
    try:
        run(shards, out, settings(), silent)
    finally:
        Keeper.checkpoint = write  # type: ignore[method-assign]


def set_failpoint(value: str, log: str = "") -> None:
    """Set the failpoint of this process, and count anew."""
    os.environ.update(SFTDATA_FAILPOINT=value, SFTDATA_FAILPOINT_LOG=log)
    failpoints._failpoint.cache_clear()


def forked(what: Callable[[], object], said: Path) -> int:
    """Do something in a child; its error goes to a file. Returns the child's exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            what()
            code = 0
        except SftdataError as error:
            said.write_text(f"{type(error).__name__}: {error}", "utf-8")
            code = error.exit_code
        except BaseException as error:
            said.write_text(repr(error), "utf-8")
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def trial(scene: Scene, name: str, disturbed: Callable[[Path], object], fails: bool) -> Problems:
    """Let a run be disturbed, resume it, and return what is not as it must be. `fails`: it ends by an error, not by a kill."""
    place = scene.folder / "trial"
    place.mkdir()
    try:
        code = forked(lambda: disturbed(place / "model"), place / "said")
        said = (place / "said").read_text("utf-8") if (place / "said").is_file() else ""
        wanted = (0, StorageError.exit_code) if fails else (-signal.SIGKILL,)
        found = [] if code in wanted and "\n" not in said else [f"exit code {code}: {said}"]
        newest = checkpoints.newest(place / "model.checkpoints", silent)
        if code == 0:
            return found  # a part of the clean-up may fail without harm
        found += [] if newest is not None and newest.step in (CRASHED - 1, CRASHED) else [f"no whole checkpoint: {newest}"]
        result = run(scene.shards, place / "model", settings(), silent, resume=True)
        found += [] if (result.out / "model.safetensors").read_bytes() == scene.weights else ["other weights"]
        found += [] if result.curves.read_bytes() == scene.curve else ["another curve"]
        left = sorted(path.name for path in (place / "model.checkpoints").iterdir())
        found += [] if left == [checkpoints.step_name(step) for step in (3, 4)] else [f"left: {left}"]
        return [f"{name}: {problem}" for problem in found]
    finally:
        shutil.rmtree(place)


def at_operations(scene: Scene, action: str, numbers: Sequence[int] | None = None) -> Outcome:
    """Kill or fail at operations of the checkpoint (from 1; all without a list), and resume."""
    begin = time.monotonic()
    chosen = list(numbers or range(1, len(scene.operations) + 1))
    found = [
        trial(
            scene, f"{action} at {scene.operations[number - 1]}",
            partial(train_disturbed, scene.shards, f"any:{number}:{action}"), action != "kill",
        )
        for number in chosen
    ]
    return _outcome(f"checkpoint, {action} at an operation", found, begin)


def half_written(scene: Scene, names: Sequence[str] = HALF_WRITTEN) -> Outcome:
    """Kill while a library is writing a file of the checkpoint: half of it is there."""
    begin = time.monotonic()
    found = [trial(scene, f"half of {name}", partial(_cut, scene, name), False) for name in names]
    return _outcome("checkpoint, killed in the middle of a file", found, begin)


def _cut(scene: Scene, name: str, out: Path) -> None:
    write = checkpoints.write

    def cut(folder: Path, step_name: str, record: Any, fill: Callable[[Path], None]) -> Path:
        def fill_half(temporary: Path) -> None:
            fill(temporary)
            path = temporary / name
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

        return write(folder, step_name, record, fill_half if step_name == checkpoints.step_name(CRASHED) else fill)

    checkpoints.write = cut
    train_disturbed(scene.shards, "", out)


def too_large(scene: Scene, sizes: Sequence[int] = (1_000, 60_000, 200_000)) -> Outcome:
    """Let no file of the checkpoint grow beyond so many bytes: what torch and safetensors then raise is one line too."""
    begin = time.monotonic()
    found = [trial(scene, f"files of {size:,} bytes", partial(_limited, scene, size), True) for size in sizes]
    return _outcome("checkpoint, a library cannot write its file", found, begin)


def _limited(scene: Scene, size: int, out: Path) -> None:
    write = saving.save_weights

    def limited(*arguments: Any, **options: Any) -> None:
        if (out.with_name("model.checkpoints") / checkpoints.step_name(CRASHED - 1)).is_dir():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        write(*arguments, **options)

    saving.save_weights = limited
    train_disturbed(scene.shards, "", out)


def _outcome(kind: str, found: Sequence[Problems], begin: float) -> Outcome:
    problems = [problem for one in found for problem in one]
    return Outcome(kind, len(found), sum(not one for one in found), time.monotonic() - begin, problems)
