"""The model that is trained: built from a configuration or loaded, fitted to the tokenizer, with adapters where asked."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from sftdata.errors import TokenizerError, TrainingError
from sftdata.tokenizers.files import NewToken
from sftdata.trainer.adapters import add_adapter
from sftdata.trainer.architecture import from_config, set_dropout
from sftdata.trainer.new_rows import set_new_rows, unknown_to
from sftdata.trainer.settings import TrainSettings

EMBEDDING_MULTIPLE = 64
"""Grown embeddings get a multiple of this many rows: matrix kernels are fastest on such shapes."""


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
        raise TokenizerError(f"{folder}: the tokenizer cannot be loaded: {first_line(error)}") from error
    return tokenizer


def make_model(
    settings: TrainSettings,
    tokenizer: PreTrainedTokenizerFast,
    window: int,
    precision: Precision,
    new_tokens: Sequence[NewToken] = (),
    *,
    resume_from: Path | None = None,
) -> Any:
    """Return the model in float32 on the CPU, its token ids and generation settings those of the tokenizer.

    `window` is the number of positions of a model from scratch that names none. The base of an adapter is loaded in the
    precision of the run, since its weights are never updated. The rows of `new_tokens` that a base lacks begin as the means of
    the tokens that they were made of. `resume_from` is a checkpoint of this run, whose weights are taken instead.
    Raises RecipeError, TokenizerError, TrainingError.
    """
    if resume_from is not None and settings.adapter is None:
        model, grown = load_base(str(resume_from), torch.float32, dropout=settings.dropout), False
    elif settings.base_model is not None:
        model, grown = _grown_base(settings, tokenizer, precision, new_tokens)
    else:
        model, grown = from_config(settings, len(tokenizer), window), False
    align_tokens(model, tokenizer)
    if settings.adapter is not None:
        return add_adapter(model, settings, train_embeddings=grown, resume_from=resume_from)
    if settings.trainable == "embeddings":
        train_embeddings_only(model)
    return model


def _grown_base(
    settings: TrainSettings, tokenizer: PreTrainedTokenizerFast, precision: Precision, new_tokens: Sequence[NewToken]
) -> tuple[Any, bool]:
    """Return the base with a row for every token, and whether any of them is new."""
    name = str(settings.base_model)
    dtype = precision.dtype if settings.adapter else torch.float32
    model = load_base(name, dtype, dropout=settings.dropout, quantized=settings.adapter == "qlora")
    num_rows = model.get_input_embeddings().weight.shape[0]
    unknown = unknown_to(name, new_tokens, num_rows)
    grown = fit_embeddings(model, len(tokenizer)) or bool(unknown)
    set_new_rows(model, unknown, num_rows)
    return model, grown


def train_embeddings_only(model: Any) -> None:
    """Leave only the rows of tokens to be trained, in and out."""
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    kept = {id(layer.weight) for layer in layers if layer is not None}
    for weight in model.parameters():
        weight.requires_grad_(id(weight) in kept)


def load_base(name: str, dtype: torch.dtype, *, dropout: float | None = None, quantized: bool = False) -> Any:
    """Load `base_model`: a folder, or `hub:org/name`. Safetensors only, no code from the repository. Raises TrainingError."""
    where, local = find_base(name)
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False, local_files_only=local)
        set_dropout(config, dropout)
        more = {"quantization_config": four_bits(dtype)} if quantized else {}
        return AutoModelForCausalLM.from_pretrained(
            where, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=local, **more
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise TrainingError(f"train.base_model: {name} cannot be loaded: {first_line(error)}") from error
    except Exception as error:
        if type(error).__module__.startswith("safetensors"):
            raise TrainingError(f"train.base_model: {name} is damaged: {first_line(error)}") from error
        raise


def find_base(name: str) -> tuple[str, bool]:
    """Return where a base lies, for transformers, and whether that is a folder. Raises TrainingError where it has no model."""
    where = name.removeprefix("hub:")
    local = where == name
    if local and not (Path(name) / "config.json").is_file():
        is_adapter = (Path(name) / "adapter_config.json").is_file()
        cure = (
            f"it is an adapter, which must be merged first: sftdata merge-lora {name}"
            if is_adapter
            else "models of the hub are written hub:org/name"
        )
        raise TrainingError(f"train.base_model: {name} holds no model (no config.json); {cure}")
    return where, local


def base_type(name: str) -> str:
    """Return the `model_type` of a base. Raises TrainingError."""
    where, local = find_base(name)
    try:
        return str(AutoConfig.from_pretrained(where, trust_remote_code=False, local_files_only=local).model_type)
    except (OSError, ValueError) as error:
        raise TrainingError(f"train.base_model: {name} cannot be loaded: {first_line(error)}") from error


def four_bits(dtype: torch.dtype) -> Any:
    """Return how QLoRA keeps its base (Dettmers et al. 2023): NF4, the scales quantised too, products in `dtype`.

    Raises TrainingError where this machine cannot.
    """
    if not torch.cuda.is_available():
        raise TrainingError("train.adapter: qlora needs a CUDA device; adapter: lora trains on this machine")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise TrainingError("train.adapter: qlora needs the package bitsandbytes: pip install bitsandbytes")
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def fit_embeddings(model: Any, num_tokens: int, *, mean_resizing: bool = True) -> bool:
    """Grow the embeddings where the tokenizer has more tokens than the model; returns whether they grew.

    `mean_resizing`: new rows are drawn around the mean of the old ones, which takes weights that a mere shape has not.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if num_tokens <= rows:
        return False
    model.resize_token_embeddings(num_tokens, pad_to_multiple_of=EMBEDDING_MULTIPLE, mean_resizing=mean_resizing)
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


def first_line(error: Exception) -> str:
    """Return the first line of an error that says anything, or its name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
