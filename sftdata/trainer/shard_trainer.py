"""transformers' Trainer, with our batches, our loss and our validation in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from sftdata.shards import Split
from sftdata.trainer.data import Batch, Collator, PlannedBatches, PlannedLoader, ShardRows
from sftdata.trainer.loss import loss_mass, token_loss
from sftdata.trainer.model import Precision
from sftdata.trainer.plan import RunPlan
from sftdata.trainer.settings import TrainSettings
from sftdata.trainer.watch import RunWatch


def training_arguments(
    settings: TrainSettings, plan: RunPlan, precision: Precision, folder: Path, *, validate: bool
) -> TrainingArguments:
    """Return the arguments under which the Trainer does only what we want of it: no reports, no saving, no NaN filter."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        use_cpu=not torch.cuda.is_available(),
        max_steps=plan.num_steps,
        per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=_scheduler(settings, plan),
        warmup_steps=plan.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        bf16=precision.bf16,
        fp16=precision.fp16,
        seed=settings.seed,
        eval_strategy="steps" if validate else "no",
        eval_steps=plan.eval_steps,
        eval_on_start=validate,
        logging_strategy="steps",
        logging_steps=plan.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    # More than one visible GPU must not turn into DataParallel, which would cut our batches up.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _scheduler(settings: TrainSettings, plan: RunPlan) -> str:
    if settings.lr_scheduler == "constant" and plan.warmup_steps:
        return "constant_with_warmup"
    return settings.lr_scheduler


class ShardTrainer(Trainer):
    """Trains on planned batches with a loss per trained token over the whole update, and tells a watch of every step."""

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        splits: tuple[Split, Split | None],
        collators: tuple[Collator, Collator],
        watch: RunWatch,
    ) -> None:
        self.train_split, self.validation_split = splits
        self.train_collator, self.validation_collator = collators
        self.watch = watch
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=ShardRows(self.train_split),
            eval_dataset=None if self.validation_split is None else ShardRows(self.validation_split),
            # Given a loss function, the Trainer knows that the loss is already scaled for the whole update.
            compute_loss_func=token_loss,
            callbacks=[watch],
        )
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the planned micro-batches."""
        batches = PlannedBatches(self.train_split, self.args.per_device_train_batch_size, self.args.seed)
        return PlannedLoader(self.train_split, batches, self.train_collator)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """Return the micro-batches of the next update and the loss mass of all of them."""
        batches = list(islice(epoch_iterator, num_batches))
        rows = [row for batch in batches for row in batch.pop("rows")]
        num_tokens = int(self.train_lengths[rows].sum())
        self.watch.step_started(self.state.global_step + 1, rows, num_tokens)
        return batches, torch.stack([loss_mass(batch) for batch in batches]).sum().float().to(device)

    @property
    def train_lengths(self) -> Any:
        """Tokens of every training row."""
        if not hasattr(self, "_train_lengths"):
            self._train_lengths = self.train_split.lengths()
        return self._train_lengths

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the micro-batch's share of the loss of its update."""
        outputs, loss = self._forward(model, inputs, num_items_in_batch)
        self.watch.loss_computed(loss)
        return (loss, outputs) if return_outputs else loss

    def _forward(self, model: Any, inputs: Batch, num_items: torch.Tensor | int | None) -> tuple[Any, torch.Tensor]:
        names = [name for name in inputs if name not in ("labels", "loss_weights")]
        # A cache that is left on would make transformers ignore that positions restart at each document.
        outputs = model(**{name: inputs[name] for name in names}, use_cache=False)
        return outputs, token_loss(outputs.logits, inputs["labels"], inputs.get("loss_weights"), num_items)

    @torch.no_grad()
    def loss_of_first_rows(self) -> float:
        """Return the mean loss of the first micro-batch of the training rows under the present weights."""
        batch = next(iter(self.get_train_dataloader()))
        mass = loss_mass(batch)
        del batch["rows"]
        model: Any = self.model
        model.eval()
        return float(self._forward(model, self._prepare_inputs(batch), mass)[1])

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the validation loss: the mean over all trained tokens of the split, not a mean of batch means."""
        assert self.validation_split is not None
        started = time.monotonic()
        model: Any = self.model_wrapped if self.is_in_train else self.model
        model.eval()
        total = torch.zeros((), dtype=torch.float64)
        mass = torch.zeros((), dtype=torch.float64)
        batches = PlannedBatches(self.validation_split, self.args.per_device_train_batch_size, self.args.seed)
        for batch in PlannedLoader(self.validation_split, batches, self.validation_collator):
            del batch["rows"]
            mass += loss_mass(batch)
            total += self._forward(model, self._prepare_inputs(batch), None)[1].double().cpu()
        loss = float(total / mass) if float(mass) else 0.0
        self.watch.validated(self.state.global_step, loss, time.monotonic() - started)
        metrics = {f"{metric_key_prefix}_loss": loss}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def floating_point_ops(self, inputs: Batch) -> int:
        """Return 0: transformers' estimate counts all parameters anew in every micro-batch."""
        return 0
