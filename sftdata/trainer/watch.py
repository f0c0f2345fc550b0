"""Watches a run step by step: log lines, curve points, checkpoints that are due, and a stop before a NaN can reach a file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sftdata.errors import TrainingError
from sftdata.trainer.curves import Curve
from sftdata.trainer.plan import RunPlan
from sftdata.trainer.progress import Meter, speed_words
from sftdata.trainer.provenance import named_rows

MAX_ROWS_NAMED = 4
"""Rows of a batch that an error message names in full."""


@dataclass
class StepRecord:
    """What one update saw: filled while it runs, read when it is checked."""

    step: int
    rows: list[int]
    loss: torch.Tensor | None = None
    """Nats a trained token, over all processes."""
    grad_norm: torch.Tensor | None = None


@dataclass
class Rhythm:
    """When something is done, in updates; 0 is never."""

    checkpoint: int = 0
    sample: int = 0
    patience: int = 0
    """Validations without a lower loss after which a run stops; 0 never stops."""


@dataclass
class Best:
    """The lowest validation loss so far."""

    loss: float = math.inf
    step: int = 0
    num_worse: int = 0
    """Validations since then."""


@dataclass
class Hooks:
    """What the watch has done when it is due; each gets the step."""

    checkpoint: Callable[[int], Path] | None = None
    best: Callable[[int], Path] | None = None
    sample: Callable[[int], None] | None = None
    restore: Callable[[], None] | None = None
    """Puts optimiser and schedule where a resumed run stood; called once they exist."""


@dataclass(eq=False)
class RunWatch(TrainerCallback):
    """Hears of every step from the trainer, and of every log line and validation from transformers.

    On a CPU each step is checked before its update is made. On a GPU that would make it wait for every step, so the checks are
    made in groups: before each log line, validation and checkpoint.
    """

    plan: RunPlan
    shards_folder: Path
    report: Callable[[str], None]
    meter: Meter
    rhythm: Rhythm = field(default_factory=Rhythm)
    hooks: Hooks = field(default_factory=Hooks)
    curve: Curve = field(default_factory=Curve)
    best: Best = field(default_factory=Best)
    check_norm: bool = True
    """False with fp16, whose loss scaler meets infinite gradients by design and skips the step."""
    first_step: int = 0
    """Updates that an earlier run made already."""
    last_saved: Path | None = None
    stopped_early: bool = False
    _window: list[float] = field(default_factory=list)
    """Losses of the steps since the last log line."""
    _unchecked: list[StepRecord] = field(default_factory=list)

    def step_started(self, step: int, rows: list[int]) -> None:
        """Note which rows update `step` (from 1) is made of."""
        self._unchecked.append(StepRecord(step, rows))

    def loss_computed(self, loss: torch.Tensor) -> None:
        """Note the loss of the running update."""
        self._unchecked[-1].loss = loss.detach()

    def validated(self, step: int, loss: float) -> None:
        """Note a validation loss, nats a token. Raises TrainingError where it is no number."""
        if not math.isfinite(loss):
            before = "before the first update" if step == 0 else f"after step {step}"
            raise TrainingError(f"the validation loss is {loss} {before}; {self._kept()}")
        self.curve.add(step, validation_loss=loss)
        if loss < self.best.loss:
            self.best = Best(loss, step)
        else:
            self.best.num_worse += 1
        self.report(f"{self._place(step)}  validation loss {loss:.4f}")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock, and count on from the updates that were made already."""
        if self.hooks.restore is not None:
            self.hooks.restore()
        state.global_step = self.first_step
        self.meter.start(self.first_step)

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Measure the gradients after clipping, and on a CPU check the step before its update."""
        if self.check_norm:
            grads = [parameter.grad for parameter in more["model"].parameters() if parameter.grad is not None]
            norm: Any = torch.nn.utils.get_total_norm(grads)
            self._unchecked[-1].grad_norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if args.device.type == "cpu":
            self.check()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Ask for what is due after this update; check before anything is written."""
        step, validates = state.global_step, args.eval_strategy != "no"
        last = step >= self.plan.num_steps
        control.should_log = control.should_log or last
        checkpoint = self._due(self.rhythm.checkpoint, step) and self.hooks.checkpoint is not None
        control.should_evaluate = validates and (control.should_evaluate or last or checkpoint)
        # Saved after the log line and the validation of this step, which then belong to the checkpoint.
        control.should_save = checkpoint
        if control.should_log or control.should_evaluate or control.should_save:
            self.check()
        if self.hooks.sample is not None and not last and self._due(self.rhythm.sample, step):
            self.aside(self.hooks.sample, step)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        """Keep the best model; stop where validation has not become better for long."""
        step = state.global_step
        if self.best.step == step and self.best.num_worse == 0 and self.hooks.best is not None:
            self.check_weights(more["model"], step)
            self.last_saved = self.aside(self.hooks.best, step)
        if self.rhythm.patience and self.best.num_worse >= self.rhythm.patience and step < self.plan.num_steps:
            self.stopped_early = True
            control.should_training_stop = True
            self.report(f"{self._place(step)}  stopped early: validation was best after step {self.best.step:,}")

    def checkpoint_due(self, model: torch.nn.Module, step: int) -> None:
        """Write a checkpoint of weights that are finite."""
        assert self.hooks.checkpoint is not None
        self.check_weights(model, step)
        self.last_saved = self.aside(self.hooks.checkpoint, step)

    def aside(self, what: Callable[[int], Any], step: int) -> Any:
        """Do something that is no training and must not count as such."""
        started = time.monotonic()
        found = what(step)
        self.meter.set_aside(time.monotonic() - started)
        return found

    def log_step(self, step: int, learning_rate: float, grad_norm: float) -> dict[str, float]:
        """Print a line, add a point to the curve, and return the figures of the line by name."""
        loss = math.fsum(self._window) / max(len(self._window), 1)
        self._window.clear()
        speed = self.meter.lap(step)
        self.curve.add(step, train_loss=loss)
        self.report(
            f"{self._place(step)}  loss {loss:.4f}  lr {learning_rate:.2e}  gradient {grad_norm:.2f}  {speed_words(speed)}"
        )
        return {"loss": loss, "learning_rate": learning_rate, "grad_norm": grad_norm, **speed}

    def check(self) -> None:
        """Raise TrainingError for the first unchecked step whose loss or gradient is no finite number."""
        for record in self._unchecked:
            if record.loss is None:
                continue
            loss = float(record.loss)
            norm = 0.0 if record.grad_norm is None else float(record.grad_norm)
            if not math.isfinite(loss):
                raise TrainingError(self._complaint(record, f"the loss is {loss}"))
            if not math.isfinite(norm):
                raise TrainingError(self._complaint(record, f"the gradient is not finite (loss {loss:.4f})"))
            if record.step == 1:
                self.curve.add(0, train_loss=loss)
            self._window.append(loss)
        self._unchecked.clear()

    def check_weights(self, model: torch.nn.Module, step: int) -> None:
        """Raise TrainingError where a weight is no finite number: an update can break what its own loss did not show."""
        broken = [name for name, weight in model.named_parameters() if not bool(weight.isfinite().all())]
        if broken:
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            raise TrainingError(f"step {step}: the update broke {broken[0]}{more}; {self._kept()}; a lower learning_rate helps")

    def state(self) -> dict[str, Any]:
        """Return what a resumed run must know so that its curve is the one that an uninterrupted run draws."""
        return {
            "curve": self.curve.rows(),
            "window": list(self._window),
            "tokens": [self.meter.num_tokens, self.meter.num_trained],
            "best": [self.best.loss if math.isfinite(self.best.loss) else None, self.best.step, self.best.num_worse],
        }

    def restore(self, step: int, state: dict[str, Any], saved: Path) -> None:
        """Go on where a run stood after `step` updates."""
        self.first_step, self.last_saved = step, saved
        self.curve = Curve.from_rows(state["curve"])
        self._window = list(state["window"])
        self.meter.num_tokens, self.meter.num_trained = state["tokens"]
        loss, best_step, num_worse = state["best"]
        self.best = Best(math.inf if loss is None else loss, best_step, num_worse)

    def _due(self, every: int, step: int) -> bool:
        return bool(every) and step % every == 0

    def _place(self, step: int) -> str:
        return f"step {step:>{len(str(self.plan.num_steps))}}/{self.plan.num_steps}"

    def _kept(self) -> str:
        if self.last_saved is None:
            return "training stopped and nothing was saved"
        return f"training stopped and the last good weights are in {self.last_saved}"

    def _complaint(self, record: StepRecord, what: str) -> str:
        names = named_rows(self.shards_folder, record.rows[:MAX_ROWS_NAMED])
        more = len(record.rows) - MAX_ROWS_NAMED
        listed = "; ".join(names) + (f"; and {more} more" if more > 0 else "")
        return (
            f"step {record.step}: {what}; {self._kept()}; the batch held {listed}; "
            "where these rows are sound, a lower learning_rate or a longer warmup_ratio helps"
        )
