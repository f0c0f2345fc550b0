"""transformers' Trainer, with our batches, our loss, our validation and our checkpoints in it.

To the Trainer the run is one epoch whose every batch is a whole update; micro-batches are ours. So an update can be cut anew
when memory runs out, and a run can begin at any step.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from sftdata.errors import TrainingError
from sftdata.shards import Split
from sftdata.shuffling import keyed_hash
from sftdata.trainer.data import Batch, Collator, PlannedUpdates, Update, update_loader
from sftdata.trainer.evaluating import DocumentLosses, measure
from sftdata.trainer.loss import loss_mass, token_loss
from sftdata.trainer.model import Precision
from sftdata.trainer.plan import RunPlan, row_counts
from sftdata.trainer.processes import Processes
from sftdata.trainer.settings import TrainSettings
from sftdata.trainer.watch import RunWatch

NUM_LOADERS = 2
"""Processes that read batches ahead for a GPU."""


def training_arguments(
    settings: TrainSettings, plan: RunPlan, precision: Precision, folder: Path, *, validate: bool, resumed: bool = False
) -> TrainingArguments:
    """Return the arguments under which the Trainer does only what we want of it: no saving of its own, no NaN filter."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=not torch.cuda.is_available(),
        max_steps=plan.num_steps,
        per_device_train_batch_size=settings.micro_batch_size,
        learning_rate=float(settings.learning_rate),
        warmup_steps=plan.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        optim="paged_adamw_32bit" if settings.adapter == "qlora" else "adamw_torch_fused",
        neftune_noise_alpha=settings.neftune_noise_alpha or None,
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
        bf16=precision.bf16,
        fp16=precision.fp16,
        seed=settings.seed,
        eval_strategy="steps" if validate else "no",
        eval_steps=plan.eval_steps,
        eval_on_start=validate and not resumed,
        logging_strategy="steps",
        logging_steps=plan.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
        **_schedule(settings, plan),
    )
    # More than one visible GPU must not turn into DataParallel, which would cut our batches up.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _schedule(settings: TrainSettings, plan: RunPlan) -> dict[str, Any]:
    if settings.lr_scheduler == "constant" and plan.warmup_steps:
        return {"lr_scheduler_type": "constant_with_warmup"}
    if settings.min_lr_ratio:
        return {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": settings.min_lr_ratio}}
    return {"lr_scheduler_type": settings.lr_scheduler}


class ShardTrainer(Trainer):
    """Trains on planned updates with a loss per trained token over the whole update, and tells a watch of every step."""

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        updates: PlannedUpdates,
        validation: tuple[Split, Collator] | None,
        watch: RunWatch,
        *,
        group: Processes,
    ) -> None:
        self.updates = updates
        self.validation = validation
        self.watch = watch
        self.group = group
        self.last_losses: DocumentLosses | None = None
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=updates,
            eval_dataset=None if validation is None else [{}],  # ours is read in `evaluate`; None would be refused
            # Given a loss function, the Trainer knows that the loss is already scaled for the whole update.
            compute_loss_func=token_loss,
            callbacks=[watch],
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the updates that are still to be made."""
        num_workers = NUM_LOADERS if self.args.device.type == "cuda" else 0
        return update_loader(self.updates, self.watch.first_step, num_workers)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Update], num_batches: int, device: torch.device
    ) -> tuple[list[Update], torch.Tensor]:
        """Return the next update and the loss mass of all of it, over all processes."""
        update = next(epoch_iterator)
        self.watch.step_started(update["step"] + 1, update["rows"])
        mass = torch.stack([loss_mass(batch) for batch in update["batches"]]).sum().float().to(device)
        return [update], self.group.total(mass)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Make all micro-batches of one update; where the GPU's memory runs out, cut it into smaller ones and try again."""
        model.train()
        size = self.updates.micro_batch_size
        if any(len(batch["rows"]) > size for batch in inputs["batches"]):
            # Read ahead by another process, which does not hear that micro-batches have become smaller.
            inputs["batches"] = self.updates.collate(inputs["rows"], size)
        while (loss := self._attempt(model, inputs, num_items_in_batch)) is None:
            model.zero_grad(set_to_none=True)
            inputs["batches"] = self._smaller(inputs["rows"])
        loss = self.group.total(loss)
        self.watch.loss_computed(loss)
        self.watch.meter.add(*(int(counts[inputs["rows"]].sum()) for counts in self._counts))
        return loss

    def _attempt(self, model: Any, update: Update, mass: torch.Tensor) -> torch.Tensor | None:
        """Compute an update; None where the GPU's memory ran out. The error, gone by then, held all tensors of its pass."""
        self._seed(update["step"])
        try:
            return self._accumulate(model, update["batches"], mass)
        except torch.OutOfMemoryError:
            return None

    def _accumulate(self, model: Any, batches: list[Batch], mass: torch.Tensor) -> torch.Tensor:
        """Add up the gradients of an update's micro-batches; returns this process's share of its loss."""
        total = torch.zeros((), device=self.args.device)
        for place, batch in enumerate(batches):
            last = place == len(batches) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model=model):
                loss = self._loss(model, batch, mass)
                # Processes average their gradients; the mass is that of all of them, so that the sum is wanted.
                self.accelerator.backward(loss * self.group.share.world_size)
            total += loss.detach()
        return total

    def _loss(self, model: Any, batch: Batch, mass: torch.Tensor) -> torch.Tensor:
        inputs = self._prepare_inputs({name: value for name, value in batch.items() if name != "rows"})
        labels, weights = inputs.pop("labels"), inputs.pop("loss_weights", None)
        # A cache that is left on would make transformers ignore that positions restart at each document.
        return token_loss(model(**inputs, use_cache=False).logits, labels, weights, mass)

    def _seed(self, step: int) -> None:
        """Make dropout and noise a function of (seed, step, process), so that a resumed run draws what it would have drawn."""
        key = keyed_hash(torch.tensor([step], dtype=torch.int64).numpy().astype("uint64"), seed=self.args.seed, purpose="noise")
        torch.manual_seed((int(key[0]) + self.group.share.rank) % (1 << 63))

    def _smaller(self, rows: list[int]) -> list[Batch]:
        """Halve the micro-batches of this update and of all that follow. Raises TrainingError where they cannot be."""
        size = self.updates.micro_batch_size
        if self.group.several or size == 1:
            raise TrainingError(out_of_memory(size, self.updates.plan.rows_per_step // (size * self.group.share.world_size)))
        torch.cuda.empty_cache()
        self.updates.micro_batch_size = smaller = math.ceil(size / 2)
        self.watch.report(f"out of memory with {size} rows at a time: going on with {smaller}, the batches stay the same")
        return self.updates.collate(rows, smaller)

    @cached_property
    def _counts(self) -> tuple[Any, Any]:
        """Tokens and trained tokens of every training row."""
        return row_counts(self.updates.split)

    @torch.no_grad()
    def losses(self, split: Split, rows: Any, collator: Collator) -> DocumentLosses:
        """Return the loss of every document of some rows under the present weights."""
        model: Any = self.model_wrapped if self.is_in_train else self.model
        model.eval()

        def forward(batch: Batch) -> torch.Tensor:
            # Where a run only had to be published, the Trainer has not yet made the model compute in 16 bits.
            with self.accelerator.autocast():
                logits: torch.Tensor = model(**self._prepare_inputs(batch), use_cache=False).logits
            return logits

        return measure(split, rows, collator, forward, size=self.updates.micro_batch_size, group=self.group)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the validation loss: the mean over all trained tokens of the split, not a mean of batch means."""
        assert self.validation is not None
        started = time.monotonic()
        split, collator = self.validation
        self.last_losses = self.losses(split, range(split.num_rows), collator)
        self.watch.validated(self.state.global_step, self.last_losses.mean)
        metrics = {f"{metric_key_prefix}_loss": self.last_losses.mean}
        self.watch.meter.set_aside(time.monotonic() - started)
        Trainer.log(self, dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log one line: loss, learning rate, gradient and speed, to the terminal and to the trackers."""
        if "learning_rate" not in logs:
            return  # the summary at the end: `train.json` holds it
        figures = self.watch.log_step(self.state.global_step, logs["learning_rate"], float(logs.get("grad_norm") or 0.0))
        super().log({name: value for name, value in figures.items() if name != "seconds_left"})

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.watch.checkpoint_due(model, self.state.global_step)

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: transformers' estimate counts all parameters anew in every micro-batch."""
        return 0


def out_of_memory(rows: int, accumulation: int) -> str:
    """Say what to do where memory ran out with `rows` rows at a time."""
    if rows == 1:
        return (
            "out of memory with one row at a time; use gradient_checkpointing: true, a smaller model, adapter: lora, or a "
            "smaller tokenize.sequence_len"
        )
    return (
        f"out of memory with {rows} rows at a time; set train.micro_batch_size={rows // 2} and "
        f"train.gradient_accumulation_steps={accumulation * 2}: the batches stay the same"
    )
