"""What a training run returns. Imports nothing but the standard library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
