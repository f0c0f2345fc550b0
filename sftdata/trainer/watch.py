"""Watches a run step by step: log lines, curve points, and a stop before a NaN can reach a file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sftdata.errors import TrainingError
from sftdata.trainer.curves import Curve
from sftdata.trainer.plan import RunPlan

MAX_ROWS_NAMED = 4
"""Rows of a batch that an error message names in full."""


@dataclass
class StepRecord:
    """What one update saw: filled while it runs, read when it is checked."""

    step: int
    rows: list[int]
    num_tokens: int
    losses: list[torch.Tensor] = field(default_factory=list)
    """The share of each micro-batch in the loss; their sum is the step's loss."""
    grad_norm: torch.Tensor | None = None

    def loss(self) -> float:
        """Return the loss of the step, nats a trained token."""
        return float(torch.stack(self.losses).sum())


class RunWatch(TrainerCallback):
    """Hears of every step from the trainer, and of every log line and validation from transformers.

    On a CPU each step is checked before its update is made. On a GPU that would make it wait for every step, so the checks are
    made in groups: before each log line, validation and snapshot.
    """

    def __init__(self, plan: RunPlan, shards_folder: Path, report: Callable[[str], None]) -> None:
        self.plan = plan
        self.shards_folder = shards_folder
        self.report = report
        self.curve = Curve()
        self.save_steps = 0
        self.save_snapshot: Callable[[int], Path] | None = None
        self.last_snapshot: Path | None = None
        self.check_norm = True
        """False with fp16, whose loss scaler meets infinite gradients by design and skips the step."""
        self.num_tokens = 0
        self._tokens_at_log = 0
        self._time_at_log = time.monotonic()
        self._seconds_aside = 0.0
        self._unchecked: list[StepRecord] = []

    def step_started(self, step: int, rows: Iterable[int], num_tokens: int) -> None:
        """Note which rows update `step` (from 1) is made of, and how many tokens they hold without padding."""
        self._unchecked.append(StepRecord(step, list(rows), num_tokens))
        self.num_tokens += num_tokens

    def loss_computed(self, loss: torch.Tensor) -> None:
        """Note the loss of one micro-batch of the running update."""
        self._unchecked[-1].losses.append(loss.detach())

    def validated(self, step: int, loss: float, seconds: float) -> None:
        """Note a validation loss, nats a token. Raises TrainingError where it is no number."""
        self._seconds_aside += seconds
        if not math.isfinite(loss):
            before = "before the first update" if step == 0 else f"after step {step}"
            raise TrainingError(f"the validation loss is {loss} {before}; {self._kept()}")
        self.curve.add(step, validation_loss=loss)
        self.report(f"step {step:>{len(str(self.plan.num_steps))}}/{self.plan.num_steps}  validation loss {loss:.4f}")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock."""
        self._time_at_log = time.monotonic()

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Measure the gradients after clipping, and on a CPU check the step before its update."""
        if self.check_norm:
            grads = [parameter.grad for parameter in more["model"].parameters() if parameter.grad is not None]
            self._unchecked[-1].grad_norm = torch.nn.utils.get_total_norm(grads)
        if args.device.type == "cpu":
            self.check()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Ask for a log line and a validation after the last update; check before anything is written."""
        if state.global_step >= self.plan.num_steps:
            control.should_log = True
            control.should_evaluate = args.eval_strategy != "no"
        snapshot = self._snapshot_due(state.global_step)
        if snapshot and args.eval_strategy != "no":
            control.should_evaluate = True
        if snapshot or control.should_log or control.should_evaluate:
            self.check()
        if snapshot and not control.should_evaluate:
            self._save(more["model"], state.global_step)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Save a snapshot that is due: only now is it known that these weights still give a finite loss."""
        if self._snapshot_due(state.global_step):
            self._save(more["model"], state.global_step)

    def _snapshot_due(self, step: int) -> bool:
        return self.save_snapshot is not None and step > 0 and step % self.save_steps == 0

    def _save(self, model: torch.nn.Module, step: int) -> None:
        assert self.save_snapshot is not None
        self.check_weights(model, step)
        self.last_snapshot = self.save_snapshot(step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Print a line and add a point to the curve."""
        logs = more.get("logs") or {}
        if "loss" not in logs:
            return
        now = time.monotonic()
        seconds = max(now - self._time_at_log - self._seconds_aside, 1e-9)
        rate = (self.num_tokens - self._tokens_at_log) / seconds
        self.curve.add(state.global_step, train_loss=float(logs["loss"]))
        self.report(
            f"step {state.global_step:>{len(str(self.plan.num_steps))}}/{self.plan.num_steps}  loss {logs['loss']:.4f}  "
            f"lr {logs['learning_rate']:.2e}  gradient {float(logs.get('grad_norm') or 0):.2f}  {rate:,.0f} tokens/s"
        )
        self._time_at_log, self._tokens_at_log, self._seconds_aside = now, self.num_tokens, 0.0

    def check(self) -> None:
        """Raise TrainingError for the first unchecked step whose loss or gradient is no finite number."""
        for record in self._unchecked:
            loss = record.loss()
            norm = 0.0 if record.grad_norm is None else float(record.grad_norm)
            if not math.isfinite(loss):
                raise TrainingError(self._complaint(record, f"the loss is {loss}"))
            if not math.isfinite(norm):
                raise TrainingError(self._complaint(record, f"the gradient is not finite (loss {loss:.4f})"))
            if record.step == 1:
                self.curve.add(0, train_loss=loss)
        self._unchecked.clear()

    def check_weights(self, model: torch.nn.Module, step: int) -> None:
        """Raise TrainingError where a weight is no finite number: an update can break what its own loss did not show."""
        broken = [name for name, weight in model.named_parameters() if not bool(weight.isfinite().all())]
        if broken:
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            raise TrainingError(f"step {step}: the update broke {broken[0]}{more}; {self._kept()}; a lower learning_rate helps")

    def _kept(self) -> str:
        if self.last_snapshot is None:
            return "training stopped and nothing was saved"
        return f"training stopped and the last good weights are in {self.last_snapshot}"

    def _complaint(self, record: StepRecord, what: str) -> str:
        names = row_origins(self.shards_folder, record.rows[:MAX_ROWS_NAMED])
        more = len(record.rows) - MAX_ROWS_NAMED
        listed = "; ".join(names) + (f"; and {more} more" if more > 0 else "")
        return (
            f"step {record.step}: {what}; {self._kept()}; the batch held {listed}; "
            "where these rows are sound, a lower learning_rate or a longer warmup_ratio helps"
        )


def row_origins(shards_folder: Path, rows: list[int]) -> list[str]:
    """Return `row 12 (faq faq.csv#3, chats chats.sql#t/1)` for rows of the train split, from the build's lineage."""
    import pyarrow.parquet as pq

    path = shards_folder / ".sftdata" / "lineage.parquet"
    origins: dict[int, list[str]] = {row: [] for row in rows}
    if path.is_file():
        filters = [("split", "=", "train"), ("row", "in", rows)]
        for entry in pq.read_table(path, columns=["row", "segment", "source", "id"], filters=filters).to_pylist():
            origins[entry["row"]].append(f"{entry['source']} {entry['id']}")
    return [f"row {row} ({', '.join(found)})" if found else f"row {row}" for row, found in origins.items()]
