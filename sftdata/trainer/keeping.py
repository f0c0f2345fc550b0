"""What a run keeps while it goes on: checkpoints with the state of the optimiser, and the best model so far."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash

from sftdata import storage
from sftdata.errors import DamagedError
from sftdata.shards import Shards
from sftdata.trainer import checkpoints, saving
from sftdata.trainer.job import Job
from sftdata.trainer.model import load_base
from sftdata.trainer.result import Sample
from sftdata.trainer.shard_trainer import ShardTrainer

BEST = "best"
"""Folder beside the checkpoints that holds the weights of the lowest validation loss."""


@dataclass
class Keeper:
    """Writes the checkpoints of one run, and reads one to go on from."""

    job: Job
    folder: Path
    trainer: ShardTrainer
    samples: list[Sample] = field(default_factory=list)

    @property
    def model(self) -> Any:
        """The model, without what several processes wrap around it."""
        return self.trainer.accelerator.unwrap_model(self.trainer.model)

    def checkpoint(self, step: int) -> Path:
        """Write a checkpoint of everything that the next step depends on, and remove the oldest."""
        state = self._state()
        tensors = self.gathered_weights()
        if self.job.group.is_main:
            record = {
                "step": step,
                "identity": run_identity(self.job),
                "watch": self.trainer.watch.state(),
                "samples": [asdict(sample) for sample in self.samples],
                "versions": saving.library_versions(),
            }

            def fill(folder: Path) -> None:
                saving.save_weights(self.model, self.job.shards.tokenizer_folder, folder, tensors)
                saving.save_state(state, folder / checkpoints.STATE)

            checkpoints.write(self.folder, checkpoints.step_name(step), record, fill)
            checkpoints.keep_newest(self.folder, self.job.settings.save_total_limit)
        self.job.group.wait()
        return self.folder / checkpoints.step_name(step)

    def best(self, step: int) -> Path:
        """Write the weights that gave the lowest validation loss so far, in place of those before them."""
        tensors = self.gathered_weights()
        if self.job.group.is_main:
            fill: Callable[[Path], None] = lambda folder: saving.save_weights(  # noqa: E731
                self.model, self.job.shards.tokenizer_folder, folder, tensors
            )
            checkpoints.write(self.folder, BEST, {"step": step}, fill)
        self.job.group.wait()
        return self.folder / BEST

    def gathered_weights(self) -> dict[str, Any] | None:
        """Return all weights where processes hold parts of them; None where the model itself has them."""
        if not self.job.group.sharded:
            return None
        tensors: dict[str, Any] = self.trainer.accelerator.get_state_dict(self.trainer.model_wrapped)
        return tensors

    def _state(self) -> dict[str, Any]:
        """Return the state of optimiser, schedule and loss scaler."""
        scaler = self.trainer.accelerator.scaler
        scheduler: Any = self.trainer.lr_scheduler
        return {
            "optimizer": self._optimizer_state(),
            "scheduler": scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else {},
        }

    def _optimizer_state(self) -> dict[str, Any]:
        optimizer: Any = self.trainer.optimizer
        if not self.job.group.sharded:
            state: dict[str, Any] = optimizer.state_dict()
            return state
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_optimizer_state_dict(self.trainer.model_wrapped, optimizer.optimizer, options=options)

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Put optimiser, schedule and loss scaler where the checkpoint left them. Raises TrainingError, DamagedError."""
        path = checkpoint.state
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise DamagedError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
        optimizer: Any = self.trainer.optimizer
        if self.job.group.sharded:
            from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

            options = StateDictOptions(full_state_dict=True)
            set_optimizer_state_dict(self.trainer.model_wrapped, optimizer.optimizer, state["optimizer"], options=options)
        else:
            optimizer.load_state_dict(state["optimizer"])
        scheduler: Any = self.trainer.lr_scheduler
        scheduler.load_state_dict(state["scheduler"])
        if self.trainer.accelerator.scaler is not None and state["scaler"]:
            self.trainer.accelerator.scaler.load_state_dict(state["scaler"])

    def load_best(self) -> None:
        """Give the model the weights of the lowest validation loss."""
        found = checkpoints.verified(self.folder / BEST).folder
        model = self.model
        if hasattr(model, "peft_config"):
            from peft import set_peft_model_state_dict
            from peft.utils import load_peft_weights

            set_peft_model_state_dict(model, load_peft_weights(str(found), device="cpu"))
        else:
            model.load_state_dict(load_base(str(found), torch.float32).state_dict())


def run_identity(job: Job) -> dict[str, Any]:
    """Return what must be the same when this run is resumed, as JSON has it."""
    plan = {
        "rows a step": job.plan.rows_per_step,
        "steps": job.plan.num_steps,
        "eval_steps": job.plan.eval_steps,
        "precision": job.precision.name,
        "FSDP": job.group.sharded,
    }
    identity: dict[str, Any] = json.loads(
        json.dumps(checkpoints.identity(data_digest(job.shards), asdict(job.settings), plan))
    )
    return identity


def data_digest(shards: Shards) -> str:
    """Return one digest of all tokens and of the tokenizer; the recipe's `train:` section is no part of it."""
    folders = (*(f"{name}/" for name in shards.splits), "tokenizer/")
    files = sorted((entry["path"], entry["xxh3"]) for entry in shards.manifest["files"] if entry["path"].startswith(folders))
    return xxhash.xxh3_128(json.dumps(files).encode()).hexdigest()


def find_checkpoint(job: Job, folder: Path, resume: bool) -> checkpoints.Checkpoint | None:
    """Return the checkpoint to go on from, of this very run; without `resume`, remove those of an earlier run.

    Raises TrainingError where data or settings changed, DamagedError where no checkpoint is whole.
    """
    if not resume:
        if job.group.is_main:
            storage.remove_tree(folder)
        job.group.wait()
        return None
    found = checkpoints.newest(folder, job.report)
    if found is None:
        job.report(f"{folder}: holds no checkpoint; starting at step 0")
        return None
    checkpoints.check_same_run(found, run_identity(job))
    state = found.state.relative_to(found.folder)
    job.report(f"resuming after step {found.step:,} of {job.plan.num_steps:,}, from {found.folder} ({state} verified)")
    return found
