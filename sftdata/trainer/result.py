"""What a training run, or the plan of one, returns. Imports nothing but the standard library."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Sample:
    """A text that the model wrote."""

    step: int
    """Updates before it was written: 0 is the untrained model."""
    prompt: str
    text: str


@dataclass(frozen=True)
class TrainResult:
    """What a finished training run left behind."""

    out: Path
    """The model folder: safetensors, tokenizer, curves, samples, card."""
    curves: Path
    """`curves.json`: a list of {"step", "train_loss", "validation_loss"}, step 0 included."""
    picture: Path
    """The same curves as a picture."""
    steps: int
    """Updates made."""
    initial_validation_loss: float | None
    """Of the untrained model; None without a validation split."""
    train_loss: float
    """The last mean over `logging_steps` updates, nats per trained token."""
    validation_loss: float | None
    samples: tuple[Sample, ...]
    diagnosis: tuple[str, ...] = ()
    """What the curves say, in words."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: int
    gradients: int
    optimiser: int
    activations: int
    """At the longest batch."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimiser + self.activations


@dataclass(frozen=True)
class TrainPlan:
    """What `sftdata train --plan` prints."""

    rows: int
    steps: int
    epochs: float
    tokens: int
    """Tokens of the whole run, repeats included, without padding."""
    trained_tokens: int
    padding: float
    """Share of positions that hold no token."""
    parameters: int
    trained_parameters: int
    memory: Memory
    available_memory: int
    seconds: float
    learning_rate: float
    suggested_learning_rate: float | None
    """For fine-tuning: base rate · √(trained tokens a step / tokens a step of pretraining)."""
    lines: tuple[str, ...] = ()
    """The plan in words."""

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON has it."""
        return {**asdict(self), "memory": {**asdict(self.memory), "total": self.memory.total}}
