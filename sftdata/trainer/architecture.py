"""A model from scratch: its configuration checked key by key, its first weights made as the recipe asks."""

from __future__ import annotations

import math
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sftdata.errors import RecipeError, suggest
from sftdata.trainer.settings import TrainSettings

OUTSIDE_CONFIG = ("rope_theta", "partial_rotary_factor")
"""Keys that transformers accepts beside a configuration's own fields and folds into `rope_parameters`."""

DROPOUTS = (
    "attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_probs_dropout_prob",
    "hidden_dropout_prob", "dropout",
)
"""Names that configurations give to their dropouts."""

NORMAL_DEVIATION = 0.02
"""Of `init: normal`, as in GPT-2 (Radford et al. 2019)."""


def from_config(settings: TrainSettings, num_tokens: int, window: int) -> Any:
    """Build an untrained model; the global seed decides its weights. Raises RecipeError."""
    options = settings.model or {}
    model_type = options["model_type"]
    causal = [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name in CONFIG_MAPPING]
    if model_type not in causal:
        raise RecipeError(f"train.model.model_type: {model_type!r} is no causal language model{_near(model_type, causal)}")
    known = {*CONFIG_MAPPING[model_type]().to_dict(), *CONFIG_MAPPING[model_type].attribute_map, *OUTSIDE_CONFIG}
    for name in options:
        if name not in known:
            raise RecipeError(f"train.model.{name}: unknown to {model_type}{_near(name, sorted(known))}")
    try:
        config = AutoConfig.for_model(**_with_defaults(options, known, num_tokens, window))
        set_dropout(config, settings.dropout)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    except (StrictDataclassError, ValueError, TypeError, RuntimeError, ZeroDivisionError, KeyError) as error:
        raise RecipeError(f"train.model: {model_type} refuses these values: {_last_line(error)}") from error
    initialise(model, settings.init)
    return model


def set_dropout(config: Any, dropout: float | None) -> None:
    """Set every dropout of a configuration; None leaves them. Raises RecipeError where it has none."""
    if dropout is None:
        return
    found = [name for name in DROPOUTS if hasattr(config, name)]
    if not found:
        raise RecipeError(f"train.dropout: models of type {config.model_type} have no dropout; leave it out")
    for name in found:
        setattr(config, name, dropout)


def initialise(model: Any, how: str) -> None:
    """Draw every weight of two dimensions or more anew, embeddings and head included; gains and biases stay.

    `kaiming` is uniform within ±√(6 / fan-in) (He et al. 2015, as the TinyStories article has it). It makes the first loss of a
    language model worse, not better: 11.5 where the default gives 10.4 with 32,000 tokens.
    """
    if how == "default":
        return
    for weight in {id(weight): weight for weight in model.parameters() if weight.dim() > 1}.values():
        if how == "kaiming":
            torch.nn.init.kaiming_uniform_(weight, a=0, mode="fan_in", nonlinearity="leaky_relu")
        else:
            torch.nn.init.normal_(weight, mean=0.0, std=NORMAL_DEVIATION)


def _with_defaults(options: dict[str, Any], known: set[str], num_tokens: int, window: int) -> dict[str, Any]:
    """Return the options with sizes that follow from the data where the recipe leaves them out."""
    values = {"vocab_size": num_tokens, **options}
    if values["vocab_size"] < num_tokens:
        raise RecipeError(f"train.model.vocab_size: {values['vocab_size']} is below the tokenizer's {num_tokens} tokens")
    if "max_position_embeddings" in known:
        values.setdefault("max_position_embeddings", window)
    if "intermediate_size" in known and "hidden_size" in options:
        # Llama's own rule (Touvron et al. 2023: 2/3 of 4 · hidden), rounded up to a multiple of 128.
        values.setdefault("intermediate_size", math.ceil(options["hidden_size"] * 8 / 3 / 128) * 128)
    # Given a pad id, the embedding layer never trains that row, and the pad token may well be EOS.
    return {**values, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}


def _near(name: str, known: list[str]) -> str:
    """Return a suggestion only: lists of two hundred names help nobody."""
    hint = suggest(name, known)
    return hint if hint.startswith("; did you mean") else ""


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
