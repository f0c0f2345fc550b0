"""The `train:` section: what is refused, and with which words."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from sftdata.errors import RecipeError
from sftdata.trainer import TrainSettings

LLAMA = {"model_type": "llama"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "neither is given"),
        ({"model": LLAMA, "base_model": "x"}, "both are given"),
        ({"model": {"hidden_size": 8}}, "model_type is missing"),
        ({"model": LLAMA, "adapter": "lora"}, "needs a trained base_model"),
        ({"model": LLAMA, "adapter": "qlora"}, "needs a trained base_model"),
        ({"model": LLAMA, "from_": "zhenhuan-base"}, "both are given"),
        ({"base_model": "x", "init": "kaiming"}, "init: has no meaning"),
        ({"model": LLAMA, "init": "kaming"}, "did you mean 'kaiming'"),
        ({"base_model": "x", "adapter": "lora", "trainable": "embeddings"}, "trainable: has no meaning"),
        ({"base_model": "x", "adapter": "lora", "lora_model_dir": "y", "lora_r": 4}, "lora_r: has no meaning"),
        ({"model": LLAMA, "learning_rate": "auto"}, "auto is a rule for fine-tuning"),
        ({"base_model": "x", "base_learning_rate": 1e-4}, "no meaning without learning_rate: auto"),
        ({"model": LLAMA, "lr_scheduler": "linear", "min_lr_ratio": 0.1}, "no meaning without lr_scheduler: cosine"),
        ({"model": LLAMA, "warmup_ratio": 0.1, "warmup_steps": 3}, "no meaning beside warmup_steps"),
        ({"model": LLAMA, "report_to": "tensorbord"}, "did you mean 'tensorboard'"),
        ({"model": LLAMA, "dropout": 1.0}, "too large"),
        ({"base_model": "x", "adapter": "loar"}, "did you mean 'lora'"),
        ({"model": LLAMA, "lora_r": 16}, "no meaning without adapter"),
        ({"model": LLAMA, "max_steps": 5, "num_epochs": 1}, "both given"),
        ({"model": LLAMA, "num_epochs": 0.0}, "must be above 0"),
        ({"model": LLAMA, "max_steps": 0}, "too small"),
        ({"model": LLAMA, "micro_batch_size": 0}, "too small"),
        ({"model": LLAMA, "warmup_ratio": 1.0}, "too large"),
        ({"model": LLAMA, "learning_rate": 0.0}, "no learning rate"),
        ({"model": LLAMA, "learning_rate": float("nan")}, "no learning rate"),
        ({"model": LLAMA, "weight_decay": float("nan")}, "too small"),
        ({"model": LLAMA, "lr_scheduler": "cosin"}, "did you mean 'cosine'"),
        ({"model": LLAMA, "attn_implementation": "fast"}, "is unknown"),
        ({"model": LLAMA, "bf16": True, "fp16": True}, "exclude each other"),
    ],
)
def test_settings_refuse_what_has_no_meaning(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        TrainSettings(**values).check()
    assert str(caught.value).startswith("train") and "\n" not in str(caught.value)


def test_settings_accept_model_alone_and_base_model_with_adapter() -> None:
    TrainSettings(model=LLAMA).check()
    TrainSettings(base_model="hub:org/name", adapter="lora", lora_r=16, num_epochs=0.5).check()


def test_importing_the_trainer_loads_no_torch() -> None:
    code = "import sys, sftdata.trainer; print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
