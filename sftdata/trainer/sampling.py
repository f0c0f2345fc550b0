"""Let a model write: samples during training, and `generate` on a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from sftdata import storage
from sftdata.errors import RecipeError, TrainingError
from sftdata.schemas import IGNORE_INDEX
from sftdata.shards import Split
from sftdata.trainer import saving
from sftdata.trainer.adapters import base_of_adapter, with_adapter
from sftdata.trainer.model import align_tokens, fit_embeddings, load_base, load_tokenizer, padding_id, quiet_transformers
from sftdata.trainer.result import Sample

PLAIN_PROMPT_TOKENS = 8
"""Tokens of a row that serve as a prompt where the row has no untrained beginning."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    max_new_tokens: int = 64
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    seed: int = 42

    def check(self) -> None:
        """Raise RecipeError for a value without meaning."""
        if self.max_new_tokens < 1:
            raise RecipeError(f"max_new_tokens: {self.max_new_tokens} is too small; the least is 1")
        if not self.temperature >= 0:
            raise RecipeError(f"temperature: {self.temperature} must be 0 (the likeliest token) or more")
        if self.top_k < 0:
            raise RecipeError(f"top_k: {self.top_k} must be 0 (no limit) or more")
        if not 0 < self.top_p <= 1:
            raise RecipeError(f"top_p: {self.top_p} must be above 0 and at most 1")


@dataclass(frozen=True)
class Prompt:
    """A prompt as the user sees it and as the model does."""

    text: str
    ids: list[int]


def encode_prompt(tokenizer: PreTrainedTokenizerFast, text: str, chat: bool | None = None) -> Prompt:
    """Encode a prompt as the training data was: as a user's turn in the chat template, or as plain text after BOS.

    `chat` None uses the template where the tokenizer has one. Raises TrainingError where `chat` asks for one and there is none.
    """
    if chat and not tokenizer.chat_template:
        raise TrainingError("chat: the model's tokenizer has no chat template; leave chat out to continue plain text")
    if tokenizer.chat_template and chat is not False:
        turns = [{"role": "user", "content": text}]
        rendered: Any = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        return Prompt(text, list(rendered))
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = start + tokenizer.encode(text, add_special_tokens=False)
    if not ids:
        raise TrainingError("the prompt is empty and the tokenizer has no BOS token; give at least one word")
    return Prompt(text, ids)


def prompt_of_split(tokenizer: PreTrainedTokenizerFast, split: Split) -> Prompt:
    """Return the untrained beginning of a split's first document, or its first tokens where all of it is trained."""
    row = split.row(0)
    length = int(row["seq_lengths"][0]) if split.packed else len(row["input_ids"])
    trained = (row["labels"][1:length] != IGNORE_INDEX).nonzero()[0]
    first = int(trained[0]) + 1 if len(trained) else length
    if first < 2:
        first = min(PLAIN_PROMPT_TOKENS, max(length // 2, 1))
    ids = row["input_ids"][:first].tolist()
    return Prompt(str(tokenizer.decode(ids, skip_special_tokens=False)), ids)


def write_on(model: Any, tokenizer: PreTrainedTokenizerFast, prompt: Prompt, sampling: Sampling) -> str:
    """Return what the model writes after the prompt, up to its stop token. The global random state is left as it was.

    Raises TrainingError for a prompt that fills the model's window.
    """
    window = getattr(model.config, "max_position_embeddings", None) or 1 << 30
    room = min(sampling.max_new_tokens, window - len(prompt.ids))
    if room < 1:
        raise TrainingError(f"the prompt has {len(prompt.ids)} tokens, the model's window {window}; shorten the prompt")
    device = next(model.parameters()).device
    ids = torch.tensor([prompt.ids], device=device)
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(sampling.seed)
            written = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=room,
                use_cache=True,
                pad_token_id=padding_id(tokenizer),
                **_choice(sampling),
            )
    finally:
        model.train(was_training)
    return str(tokenizer.decode(written[0, len(prompt.ids) :].tolist(), skip_special_tokens=True))


def _choice(sampling: Sampling) -> dict[str, Any]:
    if sampling.temperature == 0:
        return {"do_sample": False}
    return {
        "do_sample": True, "temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p
    }


def take_samples(
    model: Any, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt], sampling: Sampling, step: int
) -> tuple[Sample, ...]:
    """Let the model continue every prompt once."""
    return tuple(Sample(step, prompt.text, write_on(model, tokenizer, prompt, sampling)) for prompt in prompts)


def generate_from_folder(folder: Path, prompt: str, sampling: Sampling, chat: bool | None) -> str:
    """Load a model folder, an adapter with its base too, and write. Raises TrainingError, TokenizerError, RecipeError."""
    sampling.check()
    model, tokenizer = load_trained(folder)
    with quiet_transformers():
        return write_on(model, tokenizer, encode_prompt(tokenizer, prompt, chat), sampling)


def load_trained(folder: Path) -> tuple[Any, PreTrainedTokenizerFast]:
    """Load what a training run published: (model, tokenizer), on the GPU where there is one."""
    is_adapter = (folder / "adapter_config.json").is_file()
    if not is_adapter and not (folder / "config.json").is_file():
        raise TrainingError(f"{folder}: holds no model (neither config.json nor adapter_config.json)")
    tokenizer = load_tokenizer(folder)
    with quiet_transformers():
        model = _with_adapter(folder, tokenizer) if is_adapter else load_base(str(folder), torch.float32)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _with_adapter(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Any:
    model = load_base(base_of_adapter(folder), torch.float32)
    fit_embeddings(model, len(tokenizer))
    align_tokens(model, tokenizer)
    return with_adapter(model, folder)


def merge_lora(folder: Path, out: Path) -> Path:
    """Merge an adapter into its base and publish the whole model as `out`. Raises TrainingError, DataError, LockedError."""
    if not (folder / "adapter_config.json").is_file():
        raise TrainingError(f"{folder}: holds no adapter (no adapter_config.json)")
    with storage.lock(out), quiet_transformers():
        storage.recover(out)
        saving.check_target(out)
        tokenizer = load_tokenizer(folder)
        merged = _with_adapter(folder, tokenizer).merge_and_unload()
        temporary = storage.make_folder(storage.temporary_name(out))
        try:
            saving.save_weights(merged, folder, temporary)
            merged_from = {"adapter": folder.name, "base": base_of_adapter(folder)}
            record = {"merged": merged_from, "versions": saving.library_versions()}
            storage.write_json(temporary / saving.TRAIN_RECORD, record)
            storage.publish(temporary, out)
        finally:
            storage.remove_tree(temporary)
    return out
