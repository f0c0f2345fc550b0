"""The `train:` section of a recipe as one plain value. Imports nothing but the standard library."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from sftdata.errors import RecipeError, suggest

SCHEDULERS = ("cosine", "linear", "constant")
ADAPTERS = ("lora",)
ATTENTION = ("auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3")

AT_LEAST: dict[str, float] = {
    "lora_r": 1,
    "lora_alpha": 1,
    "lora_dropout": 0,
    "micro_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_steps": 1,
    "warmup_ratio": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "adam_beta1": 0,
    "adam_beta2": 0,
    "eval_steps": 1,
    "logging_steps": 1,
    "save_steps": 0,
    "save_total_limit": 1,
    "seed": 0,
    "max_new_tokens": 1,
}
"""The smallest value that makes sense, by field."""

BELOW_ONE = ("lora_dropout", "warmup_ratio", "adam_beta1", "adam_beta2")
LORA_FIELDS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")


@dataclass(frozen=True)
class TrainSettings:
    """How to train: every key of the recipe's `train:` section, with its default."""

    model: dict[str, Any] | None = None
    """A model from scratch: `model_type` and any field of that type's configuration."""
    base_model: str | None = None
    """A model to fine-tune instead: a folder, or `hub:org/name`."""
    adapter: str | None = None
    """`lora` trains low-rank adapters of `base_model`; None trains all weights."""
    lora_r: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    lora_target_modules: str | tuple[str, ...] = "all-linear"
    """`all-linear` (every linear layer but the output head), or names of modules."""
    micro_batch_size: int = 8
    """Rows that go through the model at once."""
    gradient_accumulation_steps: int = 1
    """Micro-batches an update."""
    num_epochs: float | None = None
    """Passes over the training rows; 1 where `max_steps` is absent too."""
    max_steps: int | None = None
    """Updates in all, instead of `num_epochs`."""
    learning_rate: float = 1e-4
    lr_scheduler: str = "cosine"
    """`cosine`, `linear` or `constant`, after the warm-up."""
    warmup_ratio: float = 0.03
    """Share of all steps in which the learning rate rises from 0."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 clips nothing."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    eval_steps: int | None = None
    """Updates between two validations; None makes ten in a run."""
    logging_steps: int | None = None
    """Updates between two log lines and curve points; None makes fifty in a run."""
    save_steps: int = 0
    """Updates between two snapshots of the weights in `OUT.checkpoints/`; 0 keeps only the final model."""
    save_total_limit: int = 2
    """Snapshots that are kept, the newest ones."""
    seed: int = 42
    bf16: bool | None = None
    """None: on where the GPU has it; never on a CPU."""
    fp16: bool | None = None
    """None: on where the GPU has no bf16; never on a CPU."""
    attn_implementation: str = "auto"
    """`auto`: FlashAttention for packed rows where it is installed, else `sdpa`."""
    sample_prompts: tuple[str, ...] = field(default=())
    """Texts to continue before and after training; none: the beginning of a row of the data."""
    max_new_tokens: int = 64
    """Tokens of a sample."""

    def check(self, *, complete: bool = True) -> None:
        """Raise RecipeError for a value or a combination that has no meaning, and, if `complete`, where no model is named."""
        if complete and self.model is None and self.base_model is None:
            raise RecipeError("train: give either model (from scratch) or base_model (to fine-tune); neither is given")
        _check_model(self)
        _check_ranges(self)
        _check_length(self)
        _check_choice("lr_scheduler", self.lr_scheduler, SCHEDULERS)
        _check_choice("attn_implementation", self.attn_implementation, ATTENTION)
        if self.bf16 and self.fp16:
            raise RecipeError("train: bf16 and fp16 exclude each other; keep one")


def _check_model(settings: TrainSettings) -> None:
    if settings.model is not None and settings.base_model is not None:
        raise RecipeError("train: give either model (from scratch) or base_model (to fine-tune); both are given")
    if settings.model is not None and not isinstance(settings.model.get("model_type"), str):
        raise RecipeError("train.model: model_type is missing; write for example model_type: llama")
    if settings.adapter == "qlora":
        raise RecipeError("train.adapter: 'qlora' is not supported by this version; use lora")
    if settings.adapter is not None:
        _check_choice("adapter", settings.adapter, ADAPTERS)
        if settings.model is not None:
            raise RecipeError("train.adapter: an adapter needs a trained base_model; a model from scratch is trained whole")
        return
    for name in LORA_FIELDS:
        if getattr(settings, name) != getattr(TrainSettings, name):
            raise RecipeError(f"train.{name}: has no meaning without adapter: lora")


def _check_ranges(settings: TrainSettings) -> None:
    for name, least in AT_LEAST.items():
        value = getattr(settings, name)
        if value is not None and not value >= least:
            raise RecipeError(f"train.{name}: {value} is too small; the least is {least:g}")
    for name in BELOW_ONE:
        if not getattr(settings, name) < 1:
            raise RecipeError(f"train.{name}: {getattr(settings, name)} is too large; it must be below 1")
    if not (settings.learning_rate > 0 and math.isfinite(settings.learning_rate)):
        raise RecipeError(f"train.learning_rate: {settings.learning_rate} is no learning rate; 1e-4 is usual")


def _check_length(settings: TrainSettings) -> None:
    if settings.max_steps is not None and settings.num_epochs is not None:
        raise RecipeError("train: max_steps and num_epochs are both given; set one of them to null")
    epochs = settings.num_epochs
    if epochs is not None and not (epochs > 0 and math.isfinite(epochs)):
        raise RecipeError(f"train.num_epochs: {epochs} must be above 0")


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise RecipeError(f"train.{name}: {value!r} is unknown{suggest(value, known)}")
