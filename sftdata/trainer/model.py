"""The model that is trained: built from a configuration or loaded, fitted to the tokenizer, with adapters where asked."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from sftdata.errors import RecipeError, TokenizerError, TrainingError, suggest
from sftdata.tokenizers.files import NewToken
from sftdata.trainer.new_rows import set_new_rows, unknown_to
from sftdata.trainer.settings import TrainSettings

EMBEDDING_MULTIPLE = 64
"""Grown embeddings get a multiple of this many rows: matrix kernels are fastest on such shapes."""

OUTSIDE_CONFIG = ("rope_theta", "partial_rotary_factor")
"""Keys that transformers accepts beside a configuration's own fields and folds into `rope_parameters`."""


@dataclass(frozen=True)
class Precision:
    """In which numbers a run computes."""

    bf16: bool
    fp16: bool

    @property
    def name(self) -> str:
        """`bf16`, `fp16` or `float32`."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else "float32"

    @property
    def dtype(self) -> torch.dtype:
        """The type of the activations."""
        return torch.bfloat16 if self.bf16 else torch.float16 if self.fp16 else torch.float32


def choose_precision(settings: TrainSettings) -> Precision:
    """Return the precision that the settings and this machine lead to. Raises TrainingError for one that it lacks."""
    cuda = torch.cuda.is_available()
    has_bf16 = cuda and torch.cuda.is_bf16_supported()
    if settings.fp16 and not cuda:
        raise TrainingError("train.fp16: this machine has no CUDA device; leave fp16 out to train in float32")
    if settings.bf16 and not has_bf16:
        raise TrainingError("train.bf16: this machine has no CUDA device with bf16; leave bf16 out to train in float32")
    bf16 = has_bf16 and not settings.fp16 if settings.bf16 is None else settings.bf16
    fp16 = (cuda and not has_bf16) if settings.fp16 is None else settings.fp16
    return Precision(bf16=bf16, fp16=fp16 and not bf16)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' log lines and progress bars: what a user must know, we say ourselves."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            # peft 0.21 asks transformers 5.23 for names that it calls deprecated: nothing that a user could change.
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer exactly as its `tokenizer.json` says. Raises TokenizerError.

    Not AutoTokenizer: a `tokenizer_class` of LlamaTokenizer makes transformers 5 rebuild the tokenizer, and then some texts get
    other ids than the shards hold.
    """
    if not (folder / "tokenizer.json").is_file():
        raise TokenizerError(f"{folder}: holds no tokenizer.json")
    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the Rust library raises bare Exception for a file that it cannot read
        raise TokenizerError(f"{folder}: the tokenizer cannot be loaded: {_first_line(error)}") from error
    return tokenizer


def make_model(
    settings: TrainSettings,
    tokenizer: PreTrainedTokenizerFast,
    window: int,
    precision: Precision,
    new_tokens: Sequence[NewToken] = (),
) -> Any:
    """Return the model in float32 on the CPU, its token ids and generation settings those of the tokenizer.

    `window` is the number of positions of a model from scratch that names none. The base of an adapter is loaded in the
    precision of the run, since its weights are never updated. The rows of `new_tokens` that a base lacks begin as the means of
    the tokens that they were made of. Raises RecipeError, TokenizerError, TrainingError.
    """
    if settings.base_model is not None:
        dtype = precision.dtype if settings.adapter else torch.float32
        model = load_base(settings.base_model, dtype)
        num_rows = model.get_input_embeddings().weight.shape[0]
        unknown = unknown_to(settings.base_model, new_tokens, num_rows)
        grown = fit_embeddings(model, len(tokenizer)) or bool(unknown)
        set_new_rows(model, unknown, num_rows)
    else:
        model, grown = _from_config(settings.model or {}, len(tokenizer), window), False
    align_tokens(model, tokenizer)
    return add_lora(model, settings, train_embeddings=grown) if settings.adapter == "lora" else model


def _from_config(options: dict[str, Any], num_tokens: int, window: int) -> Any:
    """Build an untrained model; the global seed decides its weights."""
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
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    except (StrictDataclassError, ValueError, TypeError, RuntimeError, ZeroDivisionError, KeyError) as error:
        raise RecipeError(f"train.model: {model_type} refuses these values: {_last_line(error)}") from error


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


def load_base(name: str, dtype: torch.dtype) -> Any:
    """Load `base_model`: a folder, or `hub:org/name`. Safetensors only, no code from the repository. Raises TrainingError."""
    where = name.removeprefix("hub:")
    local = where == name
    if local and not (Path(name) / "config.json").is_file():
        is_adapter = (Path(name) / "adapter_config.json").is_file()
        cure = "it is an adapter, which must be merged first" if is_adapter else "models of the hub are written hub:org/name"
        raise TrainingError(f"train.base_model: {name} holds no model (no config.json); {cure}")
    try:
        return AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=local
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise TrainingError(f"train.base_model: {name} cannot be loaded: {_first_line(error)}") from error
    except Exception as error:
        if type(error).__module__.startswith("safetensors"):
            raise TrainingError(f"train.base_model: {name} is damaged: {_first_line(error)}") from error
        raise


def fit_embeddings(model: Any, num_tokens: int) -> bool:
    """Grow the embeddings where the tokenizer has more tokens than the model; returns whether they grew."""
    rows = model.get_input_embeddings().weight.shape[0]
    if num_tokens <= rows:
        return False
    model.resize_token_embeddings(num_tokens, pad_to_multiple_of=EMBEDDING_MULTIPLE, mean_resizing=True)
    return True


def align_tokens(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Make the model's special ids those of the tokenizer, so that generation stops where training taught it to."""
    pad = tokenizer.pad_token_id
    distinct = pad is not None and pad not in (tokenizer.eos_token_id, tokenizer.bos_token_id)
    model.config.bos_token_id = tokenizer.bos_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = pad if distinct else None
    model.get_input_embeddings().padding_idx = None
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=padding_id(tokenizer)
    )


def padding_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the id that fills up batches: pad, else EOS, else 0. Masks hide it, so any id will do."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


def add_lora(model: Any, settings: TrainSettings, *, train_embeddings: bool) -> Any:
    """Wrap the model so that only low-rank adapters are trained. Raises RecipeError for a target that matches no module.

    Grown embeddings are trained and saved with the adapter: rows that nobody trains would stay random.
    """
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
        modules_to_save=_embedding_names(model) if train_embeddings else None,
        base_model_name_or_path=str(settings.base_model),
    )
    return get_peft_model(model, config)


def check_targets(model: Any, targets: tuple[str, ...]) -> None:
    """Raise RecipeError where a LoRA target names no module that can carry an adapter, with the names that can."""
    modules = {
        name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | torch.nn.Embedding)
    } | {name: module for name, module in model.named_modules() if type(module).__name__ == "Conv1D"}
    names = sorted({name.rpartition(".")[2] for name in modules})
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in modules):
            raise RecipeError(f"train.lora_target_modules: {target!r} matches no module; this model has {', '.join(names)}")


def _embedding_names(model: Any) -> list[str]:
    layers = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    return [name.rpartition(".")[2] for name, module in model.named_modules() if id(module) in layers]


def parameter_table(model: Any) -> list[str]:
    """Return lines that show where the parameters are: by part of the model, in all, and how many are trained."""
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        words = [word for word in name.split(".") if not word.isdigit() and word not in ("base_model", "model", "weight")]
        part = " ".join(words[:2]) if words[0] in ("layers", "h") else words[0]
        parts[part] = parts.get(part, 0) + parameter.numel()
    total = sum(parts.values())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    width = max(len(part) for part in [*parts, "parameters"])
    lines = [f"  {part:<{width}}  {count:>14,}  {count / total:>6.1%}" for part, count in parts.items()]
    return [*lines, f"  {'parameters':<{width}}  {total:>14,}, {trained:,} of them trained ({trained / total:.1%})"]


def _near(name: str, known: list[str]) -> str:
    """Return a suggestion only: lists of two hundred names help nobody."""
    hint = suggest(name, known)
    return hint if hint.startswith("; did you mean") else ""


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
