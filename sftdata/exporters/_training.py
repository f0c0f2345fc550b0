"""The recipe's `train:` section in the words of other trainers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from sftdata.exporters._job import Job
from sftdata.trainer.settings import MODELS, TrainSettings

TRANSFORMERS = {
    "micro_batch_size": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "num_epochs": "num_train_epochs",
    "max_steps": "max_steps",
    "learning_rate": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "adam_beta1": "adam_beta1",
    "adam_beta2": "adam_beta2",
    "seed": "seed",
}
"""Our names → those of `transformers.TrainingArguments`, which TRL and LLaMA-Factory share."""

SCHEDULERS = {"constant": "constant_with_warmup"}
"""Ours warms up under every schedule; theirs has a name of its own for that."""

LORA = ("lora_r", "lora_alpha", "lora_dropout")


def training_values(job: Job) -> dict[str, Any]:
    """Return the recipe's training settings under our names: as it says, else our defaults; no key that has no value."""
    defaults = {field.name: field.default for field in fields(TrainSettings) if field.default is not MISSING}
    values = {**defaults, "seed": job.recipe.seed, **(job.recipe.train or {})}
    values["lr_scheduler"] = SCHEDULERS.get(values["lr_scheduler"], values["lr_scheduler"])
    return {name: value for name, value in values.items() if value is not None and value != "auto"}


def renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that have another name, under that name."""
    return {theirs: values[ours] for ours, theirs in names.items() if ours in values}


def base_model(values: Mapping[str, Any]) -> str | None:
    """Return the model to fine-tune, as the hub or the disk names it; None where the recipe names none."""
    name = values.get("base_model") or (MODELS / values["from"] if values.get("from") else None)
    return None if name is None else str(name).removeprefix("hub:")


def model_notes(values: Mapping[str, Any], file: str, key: str) -> list[str]:
    """Return what is left to do where the recipe names no model to fine-tune."""
    if base_model(values) is not None:
        return []
    return [f"{file}: {key} is empty, since the recipe names no train.base_model; set it before training"]


def keeps_order(job: Job) -> bool:
    """Say whether the order of the training rows means something, so that a trainer must not shuffle them."""
    mix = job.recipe.mix
    return mix.strategy in ("buckets", "curriculum") or mix.group_by_length is not None or not mix.shuffle


def has_rows(job: Job, split: str) -> bool:
    """Say whether a split is there and not empty."""
    found = job.shards.splits.get(split)
    return found is not None and found.num_rows > 0
