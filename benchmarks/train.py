"""Trained tokens a second, MFU and peak memory on a GPU: packed against padded batches, and against TRL.

    python benchmarks/train.py [--shape 1b] [--steps 20] [--micro-batch-size 4] [--length 4096]

Needs torch, transformers, accelerate, peft, pyarrow, and two small packages, xxhash and orjson. On a machine without a network
that lacks these or trl, lay wheels beside the repository before (for Python 3.12):

    pip download -d wheels --only-binary=:all: --python-version 3.12 --no-deps \\
        xxhash orjson trl datasets dill multiprocess pandas
    pip install --no-deps --no-index wheels/*.whl     # there

Documents are made of random tokens whose lengths are drawn
like those of instructions (log-normal, median 380 tokens), so that no data set is needed; speed does not depend on what they
say. One run measures everything on the same model, the same documents and the same device; TRL's SFTTrainer with packing joins
in where trl is installed. Prints one Markdown table.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from sftdata import schemas, sealing, shards, storage
from sftdata.trainer import TrainSettings
from sftdata.trainer.data import PlannedUpdates, choose_collator, update_loader
from sftdata.trainer.job import prepare
from sftdata.trainer.loop import start
from sftdata.trainer.model import padding_id, quiet_transformers
from sftdata.trainer.progress import flops_per_token, peak_flops

SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
SHAPES = {
    "1b": dict(zip(SIZES, (2048, 5632, 22, 32, 4), strict=True)),
    "100m": dict(zip(SIZES, (768, 2048, 12, 12, 12), strict=True)),
    "tiny": dict(zip(SIZES, (64, 128, 2, 4, 2), strict=True)),
}
VOCABULARY = 32_000
WARM_STEPS = 3
"""Steps before the clock starts: kernels are chosen and memory is taken."""


@dataclass(frozen=True)
class Measured:
    """One way of training."""

    name: str
    trained_per_second: float
    tokens_per_second: float
    mfu: float | None
    peak_memory: int
    loading: float
    """Share of the time in which the loader was waited for."""

    def line(self) -> str:
        """Return a row of the table."""
        mfu = "" if self.mfu is None else f"{self.mfu:.1%}"
        memory = f"{self.peak_memory / (1 << 30):.1f} GiB" if self.peak_memory else ""
        speed = f"{self.trained_per_second:,.0f} | {self.tokens_per_second:,.0f}"
        return f"| {self.name} | {speed} | {mfu} | {memory} | {self.loading:.2%} |"


def documents(count: int, length: int) -> list[np.ndarray]:
    """Return documents of random tokens, log-normal in length, at most `length` tokens."""
    random = np.random.default_rng(7)
    lengths = np.clip(random.lognormal(np.log(380), 0.8, count).astype(int), 16, length)
    return [random.integers(3, VOCABULARY, size, dtype=np.int32) for size in lengths]


def best_fit(found: list[np.ndarray], length: int) -> list[list[np.ndarray]]:
    """Put each document, the longest first, into the fullest row that has room for it."""
    rows: list[tuple[int, list[np.ndarray]]] = []
    for document in sorted(found, key=len, reverse=True):
        fitting = [number for number, (room, _) in enumerate(rows) if room >= len(document)]
        if fitting:
            number = min(fitting, key=lambda number: rows[number][0])
            rows[number] = rows[number][0] - len(document), [*rows[number][1], document]
        else:
            rows.append((length - len(document), [document]))
    order = np.random.default_rng(8).permutation(len(rows))
    return [rows[number][1] for number in order]


def write_shards(folder: Path, rows: Iterable[list[np.ndarray]], *, packed: bool) -> Path:
    """Write a build of one split, half of whose tokens are trained."""
    rows = list(rows)
    columns = ["input_ids", "labels", "seq_lengths" if packed else "attention_mask"]
    values: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    for row in rows:
        values["input_ids"].append(np.concatenate(row))
        labels = [np.where(np.arange(len(document)) < len(document) // 2, schemas.IGNORE_INDEX, document) for document in row]
        values["labels"].append(np.concatenate(labels))
        lengths = np.array([len(document) for document in row])
        values[columns[2]].append(lengths if packed else np.ones(lengths.sum()))
    arrays = [
        shards.list_column(
            np.concatenate(values[name]), np.array([len(row) for row in values[name]]), shards.COLUMN_TYPES[name].value_type
        )
        for name in columns
    ]
    storage.make_folder(folder / "train")
    name = shards.shard_name(0, 1)
    shards.write_shard(folder / "train" / name, columns, [pa.record_batch(arrays, names=columns)])
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<unk>")
    fast.save_pretrained(str(folder / "tokenizer"))
    split = {"columns": columns, "rows": len(rows), "files": [name], "bucket_rows": [len(rows)]}
    files = [
        {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "xxh3": storage.file_digest(path)}
        for path in sorted(folder.rglob("*")) if path.is_file()
    ]
    manifest = {"format_version": schemas.FORMAT_VERSION, "name": "benchmark", "splits": {"train": split}, "files": files}
    storage.write_bytes(folder / shards.MANIFEST, sealing.sealed(manifest))
    return folder


def settings_of(arguments: argparse.Namespace, micro_batch_size: int) -> TrainSettings:
    """Return the settings of every run."""
    model = {
        "model_type": "llama", "vocab_size": VOCABULARY, "max_position_embeddings": arguments.length, **SHAPES[arguments.shape]
    }
    return TrainSettings(
        model=model, micro_batch_size=micro_batch_size, max_steps=arguments.steps + WARM_STEPS, logging_steps=1000,
        attn_implementation=arguments.attention, gradient_checkpointing=arguments.gradient_checkpointing, report_to="none",
    )


def measure_ours(name: str, folder: Path, settings: TrainSettings, work: Path) -> Measured:
    """Train with our trainer and read the clock after the warm steps."""
    with quiet_transformers():
        job = prepare(folder, settings, lambda line: None)
        run = start(job, work / "model", work / "temporary", None)
        size = run.trainer.updates.micro_batch_size
        print(f"{name}: attention {run.attention}, {job.precision.name}, {size} rows at a time", flush=True)
        clock = Clock(run.watch.meter)
        run.watch.step_started = clock.wrapped(run.watch.step_started)  # type: ignore[method-assign]
        run.trainer.train()
        seconds = clock.stop()
        loading = loading_seconds(job, run.attention) / max(job.plan.num_steps, 1) * (job.plan.num_steps - WARM_STEPS) / seconds
        flops = flops_per_token(run.model, job.facts.mean_context)
    tokens, trained = clock.counted()
    return finished(name, seconds, (tokens, trained), flops, loading)


def loading_seconds(job: Any, attention: str) -> float:
    """Return the seconds that reading and collating all batches of the run takes by itself."""
    updates = PlannedUpdates(job.train, job.plan, 42, choose_collator(job.train, attention, padding_id(job.tokenizer)))
    started = time.monotonic()
    for _ in update_loader(updates, 0):
        pass
    return time.monotonic() - started


class Clock:
    """Starts at the first step after the warm ones."""

    def __init__(self, meter: Any) -> None:
        self.meter = meter
        self.before = (0, 0.0)
        self.started = 0.0

    def wrapped(self, started: Callable[[int, list[int]], None]) -> Callable[[int, list[int]], None]:
        """Return what is called at the beginning of a step."""

        def at_step(step: int, rows: list[int]) -> None:
            if step == WARM_STEPS + 1:
                synchronise()
                self.started, self.before = time.monotonic(), (self.meter.num_tokens, self.meter.num_trained)
            started(step, rows)

        return at_step

    def stop(self) -> float:
        """Return the seconds since the warm steps."""
        synchronise()
        return time.monotonic() - self.started

    def counted(self) -> tuple[int, float]:
        """Return the tokens and trained tokens since the warm steps."""
        return self.meter.num_tokens - self.before[0], self.meter.num_trained - self.before[1]


def measure_trl(rows: list[list[np.ndarray]], arguments: argparse.Namespace, work: Path) -> Measured | None:
    """Train the same model on the same documents with TRL's SFTTrainer and packing; None where trl is not installed."""
    try:
        from datasets import Dataset
        from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback
        from trl import SFTConfig, SFTTrainer
    except ImportError:
        return None
    settings = settings_of(arguments, arguments.micro_batch_size)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**(settings.model or {})), dtype=torch.float32)
    flat = [document for row in rows for document in row]
    masks = [[0] * (len(document) // 2) + [1] * (len(document) - len(document) // 2) for document in flat]
    data = Dataset.from_dict({"input_ids": [document.tolist() for document in flat], "completion_mask": masks})
    cuda = torch.cuda.is_available()
    config = SFTConfig(
        output_dir=str(work), max_steps=settings.max_steps or 0, per_device_train_batch_size=arguments.micro_batch_size,
        packing=True, max_length=arguments.length, bf16=cuda, use_cpu=not cuda, report_to="none", save_strategy="no",
        logging_strategy="no", gradient_checkpointing=arguments.gradient_checkpointing, completion_only_loss=True,
    )
    tokens, trained = [0], [0.0]
    begun = [0.0]

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if state.global_step == WARM_STEPS:
                synchronise()
                begun[0], tokens[0], trained[0] = time.monotonic(), 0, 0.0

    class Counted(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            labels = inputs["labels"]
            trained[0] += float((labels != schemas.IGNORE_INDEX).sum())
            tokens[0] += int(labels.numel())
            return super().training_step(model, inputs, *more, **named)

    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(work.parent / "packed" / "tokenizer"))
    trainer = Counted(model=model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[Watch()])
    trainer.train()
    synchronise()
    seconds = time.monotonic() - begun[0]
    mean_context = sum(len(document) ** 2 for document in flat) / sum(map(len, flat))
    return finished("TRL, packing", seconds, (tokens[0], trained[0]), flops_per_token(model, mean_context), 0.0)


def finished(name: str, seconds: float, counted: tuple[int, float], flops: float, loading: float) -> Measured:
    """Return the figures of a run."""
    peak = peak_flops()
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    tokens, trained = counted
    mfu = None if peak is None else tokens * flops / seconds / peak
    return Measured(name, trained / seconds, tokens / seconds, mfu, memory, loading)


def synchronise() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def forget() -> None:
    """Free what a run left, and count the peak anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="1b")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--micro-batch-size", type=int, default=4)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--attention", default="auto", help="as train.attn_implementation")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--without-trl", action="store_true")
    arguments = parser.parse_args()
    needed = arguments.micro_batch_size * (arguments.steps + WARM_STEPS)
    found = documents(needed * max(arguments.length // 480, 1), arguments.length)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        rows = best_fit(found, arguments.length)
        packed = write_shards(work / "packed", rows, packed=True)
        padded = write_shards(work / "padded", [[document] for document in found], packed=False)
        # As many tokens a step: padded rows are shorter.
        per_row = sum(map(len, found)) / len(rows) / (sum(map(len, found)) / len(found))
        results = [measure_ours("packed", packed, settings_of(arguments, arguments.micro_batch_size), work / "a")]
        forget()
        wide = settings_of(arguments, round(arguments.micro_batch_size * per_row))
        results.append(measure_ours("padded, grouped by length", padded, wide, work / "b"))
        forget()
        if not arguments.without_trl and (theirs := measure_trl(rows, arguments, work / "trl")) is not None:
            results.append(theirs)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    day = time.strftime("%Y-%m-%d")
    print(f"\n{device}, torch {torch.__version__}, {day}, Llama {arguments.shape}, {arguments.length} tokens\n")
    print("| | trained tokens/s | tokens/s | MFU | peak memory | loading |\n| --- | --- | --- | --- | --- | --- |")
    print("\n".join(result.line() for result in results))
    print(json.dumps([result.__dict__ for result in results]))


if __name__ == "__main__":
    main()
