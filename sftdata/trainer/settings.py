"""The `train:` section of a recipe as one plain value. Imports nothing but the standard library."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sftdata.errors import RecipeError, suggest

MODELS = Path("models")
"""Where `sftdata train` puts models that are given no place: below the current folder."""

SCHEDULERS = ("cosine", "linear", "constant")
ADAPTERS = ("lora", "qlora")
ATTENTION = ("auto", "sdpa", "eager", "flex_attention", "varlen", "flash_attention_2", "flash_attention_3")
INITS = ("default", "normal", "kaiming")
TRAINABLE = ("all", "embeddings")
TRACKERS = ("tensorboard", "wandb", "trackio", "swanlab")

AT_LEAST: dict[str, float] = {
    "lora_r": 1,
    "lora_alpha": 1,
    "lora_dropout": 0,
    "micro_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_steps": 1,
    "warmup_ratio": 0,
    "warmup_steps": 0,
    "min_lr_ratio": 0,
    "pretrain_batch_tokens": 1,
    "dropout": 0,
    "neftune_noise_alpha": 0,
    "early_stopping_patience": 1,
    "sample_steps": 1,
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

BELOW_ONE = ("lora_dropout", "warmup_ratio", "adam_beta1", "adam_beta2", "dropout", "min_lr_ratio")
LORA_FIELDS = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_model_dir")
AUTO_FIELDS = ("base_learning_rate", "pretrain_batch_tokens")


@dataclass(frozen=True)
class TrainSettings:
    """How to train: every key of the recipe's `train:` section, with its default."""

    model: dict[str, Any] | None = None
    """A model from scratch: `model_type` and any field of that type's configuration."""
    base_model: str | None = None
    """A model to fine-tune instead: a folder, or `hub:org/name`."""
    from_: str | None = None
    """Written `from` in a recipe: the model of another recipe, by that recipe's name; `models/NAME` is what it trained."""
    init: str = "default"
    """First weights of `model`: `default` of its type, `normal` (deviation 0.02) or `kaiming` (uniform by fan-in)."""
    trainable: str = "all"
    """`embeddings` trains the rows of tokens alone, in and out: the first stage after a vocabulary was extended."""
    dropout: float | None = None
    """Sets every dropout that the model's configuration has; None leaves them as they are."""
    adapter: str | None = None
    """`lora` trains low-rank adapters of the base; `qlora` does so on a base of 4 bits (CUDA only); None trains all weights."""
    lora_r: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    lora_target_modules: str | tuple[str, ...] = "all-linear"
    """`all-linear` (every linear layer but the output head), or names of modules."""
    lora_model_dir: str | None = None
    """An adapter to go on from, of the same base; its rank, alpha and targets are its own."""
    micro_batch_size: int = 8
    """Rows that go through the model at once."""
    gradient_accumulation_steps: int = 1
    """Micro-batches an update."""
    num_epochs: float | None = None
    """Passes over the training rows; 1 where `max_steps` is absent too."""
    max_steps: int | None = None
    """Updates in all, instead of `num_epochs`."""
    learning_rate: float | Literal["auto"] = 1e-4
    """`auto`: base_learning_rate · √(trained tokens a step / pretrain_batch_tokens), for fine-tuning."""
    base_learning_rate: float | None = None
    """The rate with which the base was pretrained; None: 5e-5 for Mistral types, 3e-4 for others."""
    pretrain_batch_tokens: int = 4_000_000
    """Tokens a step when the base was pretrained."""
    lr_scheduler: str = "cosine"
    """`cosine`, `linear` or `constant`, after the warm-up."""
    min_lr_ratio: float = 0.0
    """Share of the learning rate at which `cosine` ends."""
    warmup_ratio: float = 0.03
    """Share of all steps in which the learning rate rises from 0."""
    warmup_steps: int | None = None
    """Steps of the warm-up, instead of `warmup_ratio`."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 clips nothing."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    neftune_noise_alpha: float = 0.0
    """Noise on the embeddings while training (Jain et al. 2023); 5 is usual, 0 adds none."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, a third more time."""
    eval_steps: int | None = None
    """Updates between two validations; None makes ten in a run."""
    logging_steps: int | None = None
    """Updates between two log lines and curve points; None makes fifty in a run."""
    save_steps: int = 0
    """Updates between two checkpoints in `OUT.checkpoints/`, from which `--resume` goes on; 0 keeps only the final model."""
    save_total_limit: int = 2
    """Checkpoints that are kept, the newest ones."""
    load_best_model_at_end: bool = False
    """Publish the weights of the lowest validation loss instead of the last ones."""
    early_stopping_patience: int | None = None
    """Stop after so many validations without a lower loss."""
    report_to: str | tuple[str, ...] = "auto"
    """`auto` (TensorBoard where it is installed), `none`, or names: tensorboard, wandb, trackio, swanlab."""
    seed: int = 42
    bf16: bool | None = None
    """None: on where the GPU has it; never on a CPU."""
    fp16: bool | None = None
    """None: on where the GPU has no bf16; never on a CPU."""
    attn_implementation: str = "auto"
    """`auto`: for packed rows on a GPU FlashAttention where it is installed, or torch's own (`varlen`); else `sdpa`."""
    sample_prompts: tuple[str, ...] = field(default=())
    """Texts to continue before and after training; none: the beginning of a row of the data."""
    sample_steps: int | None = None
    """Updates between two samples during training; None: only before and after."""
    max_new_tokens: int = 64
    """Tokens of a sample."""

    @property
    def rows_per_step(self) -> int:
        """Rows of one update on one device."""
        return self.micro_batch_size * self.gradient_accumulation_steps

    @property
    def fine_tunes(self) -> bool:
        """True where training begins from trained weights."""
        return self.model is None

    @property
    def trackers(self) -> tuple[str, ...]:
        """The names in `report_to`."""
        return (self.report_to,) if isinstance(self.report_to, str) else self.report_to

    def resolved(self) -> TrainSettings:
        """Return the settings with `from` written out as the `base_model` that it stands for."""
        return self if self.from_ is None else replace(self, from_=None, base_model=str(MODELS / self.from_))

    def check(self, *, complete: bool = True) -> None:
        """Raise RecipeError for a value or a combination that has no meaning, and, if `complete`, where no model is named."""
        _check_model(self, complete)
        _check_adapter(self)
        _check_ranges(self)
        _check_length(self)
        _check_choice("lr_scheduler", self.lr_scheduler, SCHEDULERS)
        _check_choice("attn_implementation", self.attn_implementation, ATTENTION)
        _check_choice("init", self.init, INITS)
        _check_choice("trainable", self.trainable, TRAINABLE)
        _check_meaning(self)
        if self.bf16 and self.fp16:
            raise RecipeError("train: bf16 and fp16 exclude each other; keep one")


def _check_model(settings: TrainSettings, complete: bool) -> None:
    named = [name for name in ("model", "base_model", "from_") if getattr(settings, name) is not None]
    if len(named) > 1:
        given = "both are given" if len(named) == 2 else "all are given"
        raise RecipeError(f"train: give one of model (from scratch), base_model and from (to fine-tune); {given}")
    if complete and not named:
        raise RecipeError("train: give model (from scratch), base_model or from (to fine-tune); neither is given")
    if settings.model is not None and not isinstance(settings.model.get("model_type"), str):
        raise RecipeError("train.model: model_type is missing; write for example model_type: llama")
    if settings.model is None and settings.init != "default":
        raise RecipeError("train.init: has no meaning for a trained base_model, whose weights are kept")


def _check_adapter(settings: TrainSettings) -> None:
    if settings.adapter is None:
        _refuse(settings, LORA_FIELDS, "has no meaning without adapter: lora")
        return
    _check_choice("adapter", settings.adapter, ADAPTERS)
    if settings.model is not None:
        raise RecipeError("train.adapter: an adapter needs a trained base_model; a model from scratch is trained whole")
    if settings.trainable != "all":
        raise RecipeError("train.trainable: has no meaning beside an adapter, which decides what is trained")
    if settings.lora_model_dir is not None:
        _refuse(settings, LORA_FIELDS[:-1], "has no meaning beside lora_model_dir, which brings its own")


def _refuse(settings: TrainSettings, names: tuple[str, ...], why: str) -> None:
    """Raise RecipeError for the first of the named fields that is not at its default."""
    for name in names:
        if getattr(settings, name) != getattr(TrainSettings, name):
            raise RecipeError(f"train.{name}: {why}")


def _check_ranges(settings: TrainSettings) -> None:
    for name, least in AT_LEAST.items():
        value = getattr(settings, name)
        if value is not None and not value >= least:
            raise RecipeError(f"train.{name}: {value} is too small; the least is {least:g}")
    for name in BELOW_ONE:
        value = getattr(settings, name)
        if value is not None and not value < 1:
            raise RecipeError(f"train.{name}: {value} is too large; it must be below 1")
    for name in ("learning_rate", "base_learning_rate"):
        rate = getattr(settings, name)
        if isinstance(rate, float | int) and not (rate > 0 and math.isfinite(rate)):
            raise RecipeError(f"train.{name}: {rate} is no learning rate; 1e-4 is usual")


def _check_meaning(settings: TrainSettings) -> None:
    """Raise RecipeError for an option that the others leave without meaning."""
    if settings.learning_rate != "auto":
        _refuse(settings, AUTO_FIELDS, "has no meaning without learning_rate: auto")
    elif settings.model is not None:
        raise RecipeError("train.learning_rate: auto is a rule for fine-tuning; a model from scratch needs a number, say 3e-4")
    if settings.lr_scheduler != "cosine":
        _refuse(settings, ("min_lr_ratio",), "has no meaning without lr_scheduler: cosine")
    if settings.warmup_steps is not None:
        _refuse(settings, ("warmup_ratio",), "has no meaning beside warmup_steps; keep one")
    if settings.trackers not in (("auto",), ("none",)):
        for name in settings.trackers:
            _check_choice("report_to", name, TRACKERS)


def _check_length(settings: TrainSettings) -> None:
    if settings.max_steps is not None and settings.num_epochs is not None:
        raise RecipeError("train: max_steps and num_epochs are both given; set one of them to null")
    epochs = settings.num_epochs
    if epochs is not None and not (epochs > 0 and math.isfinite(epochs)):
        raise RecipeError(f"train.num_epochs: {epochs} must be above 0")


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise RecipeError(f"train.{name}: {value!r} is unknown{suggest(value, known)}")
