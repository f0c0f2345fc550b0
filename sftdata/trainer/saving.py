"""What a run leaves behind: weights, tokenizer, curves, samples, a card, and `train.json`."""

from __future__ import annotations

import contextlib
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from sftdata import storage
from sftdata.disk_file import storage_errors
from sftdata.errors import DataError, StorageError
from sftdata.trainer.result import Sample
from sftdata.trainer.settings import TrainSettings

TRAIN_RECORD = "train.json"
NO_TOKENIZER = ("README.md", "config.json", "generation_config.json", "adapter_config.json", "train.json", "samples.json")
"""Files beside the tokenizer of a model folder."""
LIBRARIES = ("sftdata", "torch", "transformers", "accelerate", "peft", "safetensors", "numpy", "pyarrow")


def check_target(out: Path) -> None:
    """Raise DataError where `out` holds anything but an earlier training run: it would be replaced."""
    if out.is_dir() and any(out.iterdir()) and not (out / TRAIN_RECORD).is_file():
        raise DataError(f"{out}: is not empty and holds no trained model of sftdata; choose another --out")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; choose another --out")


def clear_leftovers(out: Path) -> None:
    """Remove the temporary folders of runs that were killed. Run under the lock of `out`."""
    for leftover in out.parent.glob(f".{out.name}.tmp-*"):
        storage.remove_tree(leftover)


def save_weights(model: Any, tokenizer_folder: Path, folder: Path, tensors: dict[str, Any] | None = None) -> None:
    """Save a model, or an adapter, as safetensors with its tokenizer; `tensors`: weights gathered from sharded processes."""
    storage.make_folder(folder)
    more: dict[str, Any] = {} if tensors is None else {"state_dict": tensors}
    if hasattr(model, "peft_config"):
        # Whether embeddings belong to the adapter was decided when it was made; "auto" would ask the hub.
        more["save_embedding_layers"] = False
    # Training turns the cache off; a saved model without it would generate slowly everywhere.
    use_cache, model.config.use_cache = model.config.use_cache, True
    try:
        with library_writes(folder):
            model.save_pretrained(str(folder), **more)
            for file in sorted(tokenizer_folder.iterdir()):
                if file.is_file() and file.name not in NO_TOKENIZER and file.suffix != ".safetensors":
                    shutil.copyfile(file, folder / file.name)
    finally:
        model.config.use_cache = use_cache


def save_state(state: Mapping[str, Any], path: Path) -> None:
    """Save what an optimiser and its companions know. Raises StorageError."""
    with library_writes(path):
        torch.save(dict(state), path)


@contextlib.contextmanager
def library_writes(path: Path) -> Iterator[None]:
    """Turn what libraries raise when they cannot write into a StorageError: safetensors and torch have errors of their own."""
    try:
        with storage_errors(path):
            yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, SafetensorError) as error:
        raise StorageError(f"{path}: cannot be written: {str(error).splitlines()[0]}; is the disk full?") from error


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that a training run depends on."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def write_record(folder: Path, settings: TrainSettings, facts: Mapping[str, Any], samples: tuple[Sample, ...]) -> None:
    """Write `train.json`, `samples.json` and the model card."""
    record = {"settings": asdict(settings), **facts, "versions": library_versions()}
    storage.write_json(folder / TRAIN_RECORD, record)
    storage.write_json(folder / "samples.json", [asdict(sample) for sample in samples])
    storage.write_bytes(folder / "README.md", model_card(settings, facts, samples).encode("utf-8"))


def model_card(settings: TrainSettings, facts: Mapping[str, Any], samples: tuple[Sample, ...]) -> str:
    """Return the model card: YAML front matter that the hub reads, data, settings, results and samples."""
    base = settings.base_model
    front = ["---", f"library_name: {'peft' if settings.adapter else 'transformers'}", "pipeline_tag: text-generation"]
    front += [f"base_model: {base.removeprefix('hub:')}"] if base and base.startswith("hub:") else []
    origin = f"a LoRA adapter of `{base}`" if settings.adapter else f"`{base}`, fine-tuned" if base else "trained from scratch"
    losses, counts = facts["losses"], facts["counts"]
    rows = [
        ("training rows", f"{counts['rows']:,} ({counts['tokens']:,} tokens, {counts['trained_tokens']:,} of them trained)"),
        ("validation rows", f"{counts['validation_rows']:,}"),
        ("steps", f"{facts['steps']:,} ({facts['epochs']:.2f} epochs)"),
        ("learning rate", f"{settings.learning_rate:g}, {settings.lr_scheduler}"),
        ("batch", f"{settings.micro_batch_size} rows × {settings.gradient_accumulation_steps} × {facts['processes']} devices"),
        ("precision, attention", f"{facts['precision']}, {facts['attention']}"),
        ("training loss, first and last", f"{_loss(losses['train_first'])} → {_loss(losses['train_last'])}"),
        ("validation loss, before and after", f"{_loss(losses['validation_first'])} → {_loss(losses['validation_last'])}"),
        ("shards", f"`{facts['shards']['xxh3']}`"),
    ]
    lines = [*front, "---", "", f"# {facts['name']}", ""]
    lines += [f"A language model, {origin}, on the shards `{facts['shards']['name']}`."]
    lines += ["", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    lines += ["", "Losses are nats per trained token.", "", f"![learning curves]({facts['picture']})", ""]
    lines += [*(f"- {sentence}" for sentence in facts["diagnosis"]), ""]
    if facts["validation_by_source"]:
        lines += ["## Validation by source", "", "| source | loss | perplexity | documents |", "|---|---|---|---|"]
        for source, entry in facts["validation_by_source"].items():
            lines.append(f"| {source} | {entry['loss']:.4f} | {entry['perplexity']:,.1f} | {entry['documents']:,} |")
        lines.append("")
    lines += ["## Samples", ""]
    for sample in samples:
        title = "before training" if sample.step == 0 else f"after {sample.step:,} steps"
        lines += [f"**{title}**", "", *_quoted(sample.prompt), ">", *_quoted(sample.text or "(nothing)"), ""]
    return "\n".join(lines)


def _quoted(text: str) -> list[str]:
    """Return the lines of a text as an indented block, in which Markdown has no meaning."""
    return [f">     {line}" for line in text.splitlines() or [""]]


def _loss(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"
