"""LoRA: adapters put on a model, gone on from, and merged into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sftdata.errors import RecipeError, TrainingError
from sftdata.trainer.settings import TrainSettings


def add_adapter(model: Any, settings: TrainSettings, *, train_embeddings: bool, resume_from: Path | None = None) -> Any:
    """Wrap the model so that only low-rank adapters are trained: new ones, those of `lora_model_dir`, or a checkpoint's.

    Grown embeddings are trained and saved with a new adapter: rows that nobody trains would stay random.
    Raises RecipeError for a target that matches no module, TrainingError for an adapter of another model.
    """
    if settings.adapter == "qlora":
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(  # type: ignore[no-untyped-call]
            model, use_gradient_checkpointing=settings.gradient_checkpointing
        )
    folder = resume_from or settings.lora_model_dir
    if folder is not None:
        return with_adapter(model, Path(folder), trainable=True)
    return _new_adapter(model, settings, train_embeddings)


def _new_adapter(model: Any, settings: TrainSettings, train_embeddings: bool) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = settings.lora_target_modules
    if isinstance(targets, str) and targets != "all-linear":
        targets = (targets,)
    if not isinstance(targets, str):
        check_targets(model, targets)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        # GPT-2's layers keep their matrices transposed.
        fan_in_fan_out=any(type(module).__name__ == "Conv1D" for module in model.modules()),
        modules_to_save=_embedding_names(model) if train_embeddings else None,
        base_model_name_or_path=str(settings.base_model),
    )
    return get_peft_model(model, config)


def with_adapter(model: Any, folder: Path, *, trainable: bool = False) -> Any:
    """Put the adapter in `folder` on its base. Raises TrainingError where it is none, or belongs to another model."""
    from peft import PeftModel

    if not (folder / "adapter_config.json").is_file():
        raise TrainingError(f"{folder}: holds no adapter (no adapter_config.json)")
    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise TrainingError(f"{folder}: the adapter does not fit its base: {lines[0]}") from error


def base_of_adapter(folder: Path) -> str:
    """Return the base that an adapter was trained on, as `base_model` names it. Raises TrainingError."""
    path = folder / "adapter_config.json"
    try:
        base = str(json.loads(path.read_text("utf-8"))["base_model_name_or_path"] or "")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder}: holds no adapter that names its base ({path.name})") from error
    return base if base.startswith("hub:") or Path(base).is_dir() else f"hub:{base}"


def base_note(settings: TrainSettings) -> str | None:
    """Return a word on an adapter that goes on with a base of another name than it was trained on, or None."""
    if settings.lora_model_dir is None:
        return None
    before = base_of_adapter(Path(settings.lora_model_dir))
    if before.removeprefix("hub:") == str(settings.base_model).removeprefix("hub:"):
        return None
    return f"note: {settings.lora_model_dir} was trained on {before} and goes on with {settings.base_model}; are they the same?"


def check_targets(model: Any, targets: tuple[str, ...]) -> None:
    """Raise RecipeError where a LoRA target names no module that can carry an adapter, with the names that can."""
    modules = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding) or type(module).__name__ == "Conv1D"
    ]
    names = sorted({name.rpartition(".")[2] for name in modules})
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in modules):
            raise RecipeError(f"train.lora_target_modules: {target!r} matches no module; this model has {', '.join(names)}")


def _embedding_names(model: Any) -> list[str]:
    layers = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    return [name.rpartition(".")[2] for name, module in model.named_modules() if id(module) in layers]
