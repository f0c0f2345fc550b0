"""A run of 40 steps resumed after every step, under other splits of the batch: the same batches, the same curve."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from faults.trials import Outcome
from launched import free_port, launch
from torch import distributed
from train_fixture import Build, counting, counting_rows, silent, tiny_settings, write_build

from sftdata.trainer import TrainSettings, checkpoints, run
from sftdata.trainer.shard_trainer import ShardTrainer

NUM_STEPS = 40
TOLERANCE = 1e-5
"""Nats a token by which a curve may differ where the batch is split in another way."""
Batches = list[tuple[int, list[int], list[int]]]
"""(step from 0, rows of the whole update, rows that went through the model in this process) of every update."""


class Split(NamedTuple):
    """How the four rows of a step are cut up."""

    micro_batch_size: int
    gradient_accumulation_steps: int
    num_processes: int = 1

    def __str__(self) -> str:
        return f"{self.micro_batch_size} rows x {self.gradient_accumulation_steps} x {self.num_processes} processes"


FIRST = Split(2, 2)
"""The split of the run that is resumed."""
SPLITS = (FIRST, Split(4, 1), Split(1, 4), Split(1, 2, 2))


class Seen(NamedTuple):
    """What a run did."""

    batches: Batches
    curve: list[dict[str, Any]]
    weights: bytes

    def problems(self, whole: Seen, first_step: int, exact: bool) -> list[str]:
        """Return in what a run resumed after `first_step` steps differs from the whole run."""
        after = whole.batches[first_step:]
        found = [] if [batch[:2] for batch in self.batches] == [batch[:2] for batch in after] else ["batches"]
        if exact:
            found += [] if self.batches == after else ["micro-batches"]
            found += [] if self.curve == whole.curve else ["curve"]
            return found + ([] if self.weights == whole.weights else ["weights"])
        return found + ([] if self.deviation(whole) <= TOLERANCE else [f"curve, by {self.deviation(whole):.2e}"])

    def deviation(self, whole: Seen) -> float:
        """Return the largest difference of a loss, in nats a token; infinite where the curves have other points."""
        if [point["step"] for point in self.curve] != [point["step"] for point in whole.curve]:
            return float("inf")
        pairs = [
            (point[name], same[name])
            for point, same in zip(self.curve, whole.curve, strict=True) for name in ("train_loss", "validation_loss")
        ]
        assert sum(one is not None for one, _ in pairs) > NUM_STEPS
        return max(abs(one - other) if one is not None and other is not None else 9.0 * (one != other) for one, other in pairs)


def shards_in(folder: Path) -> Path:
    """Write 22 packed rows, of which an epoch makes six steps of four rows; the last takes two."""
    rows = [[counting(3 * row + place, 5 + (row + place) % 5) for place in range(1 + row % 3)] for row in range(22)]
    return write_build(folder / "shards", Build({"train": rows, "validation": counting_rows(3, first=5)}))


def settings(split: Split, *, noise: bool = False) -> TrainSettings:
    """Return settings of 40 steps; with `noise`, dropout and noise on the embeddings, which only the same split draws alike."""
    more = {"dropout": 0.1, "neftune_noise_alpha": 5.0} if noise else {}
    return tiny_settings(
        micro_batch_size=split.micro_batch_size, gradient_accumulation_steps=split.gradient_accumulation_steps,
        max_steps=NUM_STEPS, eval_steps=1, learning_rate=3e-3, max_new_tokens=1, **more,
    )


@contextlib.contextmanager
def batches_seen() -> Iterator[Batches]:
    """Collect the batches of all runs in the block."""
    found: Batches = []
    step = ShardTrainer.training_step

    def noted(self: Any, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        mine = [row for batch in inputs["batches"] for row in batch["rows"] if (batch["labels"] != -100).any()]
        found.append((inputs["step"], list(inputs["rows"]), mine))
        return step(self, model, inputs, *more, **named)

    ShardTrainer.training_step = noted  # type: ignore[assignment]
    try:
        yield found
    finally:
        ShardTrainer.training_step = step  # type: ignore[method-assign]


def seen(shards: Path, out: Path, chosen: TrainSettings, *, resume: bool = False) -> Seen:
    """Train, and return what the run did."""
    with batches_seen() as batches:
        result = run(shards, out, chosen, silent, resume=resume)
    return Seen(batches, json.loads(result.curves.read_text("utf-8")), (result.out / "model.safetensors").read_bytes())


def whole_run(shards: Path, folder: Path, *, noise: bool = False) -> Seen:
    """Make the run that is resumed, with a checkpoint after every step in `folder`/model.checkpoints."""
    chosen = replace(settings(FIRST, noise=noise), save_steps=1, save_total_limit=NUM_STEPS)
    return seen(shards, folder / "model", chosen)


def stand_at(whole_folder: Path, out: Path, step: int) -> None:
    """Lay the checkpoint after `step` steps beside an output that is not there yet."""
    target = checkpoints.folder_of(out)
    target.mkdir(parents=True)
    os.symlink(whole_folder / "model.checkpoints" / checkpoints.step_name(step), target / checkpoints.step_name(step))


def resumed(shards: Path, whole_folder: Path, work: Path, step: int, chosen: TrainSettings) -> Seen:
    """Resume after `step` steps and go on to the last."""
    work.mkdir(parents=True)
    try:
        stand_at(whole_folder, work / "model", step)
        return seen(shards, work / "model", chosen, resume=True)
    finally:
        shutil.rmtree(work)


CHILD = """
import json, sys
from pathlib import Path
from resuming.steps import child
child(*map(Path, sys.argv[1:4]), json.loads(sys.argv[4]), json.loads(sys.argv[5]))
"""


def child(shards: Path, whole_folder: Path, work: Path, split: Sequence[int], steps: Sequence[int]) -> None:
    """Be one of several processes: resume after each of the steps, and print what was seen as JSON."""
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    found = []
    for step in steps:
        out = work / str(step) / "model"
        if rank == 0:
            stand_at(whole_folder, out, step)
        distributed.barrier()
        with batches_seen() as batches:
            result = run(shards, out, settings(Split(*split)), silent, resume=True)
        found.append([batches, json.loads(result.curves.read_text("utf-8"))])
    distributed.barrier()
    distributed.destroy_process_group()
    print(json.dumps(found))  # now that none waits for another: one is read after the other


def resumed_by_processes(shards: Path, whole_folder: Path, work: Path, split: Split, steps: Sequence[int]) -> list[Seen]:
    """Resume after each of the steps in several processes; each sees its own rows, together those of the update."""
    arguments = (str(shards), str(whole_folder), str(work), json.dumps(split), json.dumps(list(steps)))
    printed = [json.loads(text) for text in launch(CHILD, split.num_processes, free_port(), *arguments, seconds=7200)]
    found = []
    for ranks in zip(*printed, strict=True):
        together: Batches = []
        for parts in zip(*(batches for batches, _ in ranks), strict=True):
            mine = sorted(row for _, _, rows in parts for row in rows)
            rows = parts[0][1] if mine == sorted(parts[0][1]) else mine
            together.append((parts[0][0], rows, []))
        found.append(Seen(together, ranks[0][1], b""))
    return found


def outcome(kind: str, shards: Path, whole_folder: Path, split: Split, steps: Sequence[int], *, noise: bool = False) -> Outcome:
    """Resume after each of the steps under one split, and compare with the whole run."""
    begin = time.monotonic()
    whole = read_whole(whole_folder)
    work = whole_folder / "work"
    if split.num_processes > 1:
        runs = resumed_by_processes(shards, whole_folder, work, split, steps)
    else:
        chosen = settings(split, noise=noise)
        runs = [resumed(shards, whole_folder, work / str(step), step, chosen) for step in steps]
    shutil.rmtree(work, ignore_errors=True)
    problems = [
        f"{kind}, resumed after step {step}: another {problem}"
        for step, found in zip(steps, runs, strict=True) for problem in found.problems(whole, step, split == FIRST)
    ]
    worst = max(found.deviation(whole) for found in runs)
    good = len(steps) - len({problem.split(":")[0] for problem in problems})
    return Outcome(f"{kind} (losses within {worst:.1e})", len(steps), good, time.monotonic() - begin, problems)


def write_whole(folder: Path, whole: Seen) -> None:
    """Keep what the whole run did beside its checkpoints."""
    record = {"batches": whole.batches, "curve": whole.curve, "weights": whole.weights.hex()}
    (folder / "whole.json").write_text(json.dumps(record), "utf-8")


def read_whole(folder: Path) -> Seen:
    """Return what `write_whole` kept."""
    record = json.loads((folder / "whole.json").read_text("utf-8"))
    batches = [(step, rows, mine) for step, rows, mine in record["batches"]]
    return Seen(batches, record["curve"], bytes.fromhex(record["weights"]))
