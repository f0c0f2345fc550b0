"""A training run from shards to a published model folder."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, set_seed

from sftdata import storage
from sftdata.errors import DamagedError, DataError, TrainingError
from sftdata.shards import Shards, Split, open_shards
from sftdata.tokenizers.files import read_new_tokens
from sftdata.trainer import isolation, saving
from sftdata.trainer.curves import TRAIN, VALIDATION, Curve, write_curves
from sftdata.trainer.data import Collator, choose_collator
from sftdata.trainer.model import (
    Precision,
    choose_precision,
    load_tokenizer,
    make_model,
    padding_id,
    parameter_table,
    quiet_transformers,
)
from sftdata.trainer.plan import RunPlan, SplitFacts, plan_run, survey
from sftdata.trainer.result import Sample, TrainResult
from sftdata.trainer.sampling import Prompt, Sampling, encode_prompt, prompt_of_split, take_samples
from sftdata.trainer.settings import TrainSettings
from sftdata.trainer.shard_trainer import ShardTrainer, training_arguments
from sftdata.trainer.watch import RunWatch

Report = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """All that is known of a run before its model is made."""

    shards: Shards
    train: Split
    validation: Split | None
    facts: SplitFacts
    plan: RunPlan
    settings: TrainSettings
    precision: Precision
    tokenizer: PreTrainedTokenizerFast


def train(shards_folder: Path, out: Path, settings: TrainSettings, report: Report) -> TrainResult:
    """Train on the shards and publish the model as `out`; see `sftdata.trainer.run`."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError("training on more than one process is not supported by this version; start it without a launcher")
    out = Path(os.path.abspath(out))
    with storage.lock(out), quiet_transformers():
        storage.recover(out)
        saving.check_target(out)
        saving.clear_leftovers(out)
        temporary = storage.temporary_name(out)
        try:
            job = prepare(shards_folder, settings, report)
            return run_job(job, out, storage.make_folder(temporary), report)
        except torch.OutOfMemoryError as error:
            raise TrainingError(_out_of_memory(settings)) from error
        finally:
            storage.remove_tree(temporary)


def prepare(shards_folder: Path, settings: TrainSettings, report: Report) -> Job:
    """Open and verify the shards and work out what the run will do. Raises DamagedError, DataError, TrainingError."""
    shards = open_verified(shards_folder)
    split = shards.splits.get("train")
    if split is None:
        raise DataError(f"{shards.folder}: has no train split")
    plan = plan_run(split.num_rows, settings)
    facts = survey(split)
    if facts.num_trained_tokens == 0:
        raise TrainingError(f"{shards.folder}: no token of the train split is trained (all labels are -100)")
    tokenizer = load_tokenizer(shards.tokenizer_folder)
    validation = shards.splits.get("validation")
    if validation is None:
        report("no validation split: the curve shows the training loss alone (split: {validation: 0.05} makes one)")
    elif survey(validation).num_trained_tokens == 0:
        report("no row fell into the validation split: the curve shows the training loss alone (a larger share makes one)")
        validation = None
    for line in announcement(facts, plan, settings):
        report(line)
    return Job(shards, split, validation, facts, plan, settings, choose_precision(settings), tokenizer)


def open_verified(folder: Path) -> Shards:
    """Open a build after checking every file of it. Raises DamagedError that names what is damaged."""
    shards = open_shards(folder)
    damaged = list(shards.damaged_files())
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise DamagedError(f"{shards.folder / damaged[0]}{more}: does not match its checksum; build the shards again")
    return shards


def announcement(facts: SplitFacts, plan: RunPlan, settings: TrainSettings) -> list[str]:
    """Return what is said before the first step: rows, tokens, exact steps."""
    lines = [
        f"train: {facts.num_rows:,} rows, {facts.num_tokens:,} tokens, {facts.num_trained_tokens:,} of them trained",
        f"steps: {plan.num_steps:,} = {plan.num_epochs:.2f} epochs of {plan.steps_per_epoch:,}; "
        f"a step is {settings.micro_batch_size} rows x {settings.gradient_accumulation_steps}",
    ]
    if facts.num_trained_first_tokens:
        lines.append(f"note: the first token of {facts.num_trained_first_tokens:,} documents is trained")
    return lines


def run_job(job: Job, out: Path, temporary: Path, report: Report) -> TrainResult:
    """Make the model, train it, and publish the folder."""
    started = time.monotonic()
    set_seed(job.settings.seed)
    window = max(job.facts.longest_row, int(job.shards.manifest.get("sequence_len") or 0))
    new_tokens = read_new_tokens(job.shards.tokenizer_folder)
    model = make_model(job.settings, job.tokenizer, window, job.precision, new_tokens)
    check_fit(job, model)
    for line in parameter_table(model):
        report(line)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    attention = choose_attention(job, model)
    report(f"computing in {job.precision.name} on {model.device.type}, attention {attention}")
    watch = RunWatch(job.plan, job.shards.folder, report)
    set_snapshots(job, model, watch, out)
    prompts = choose_prompts(job)
    sampling = Sampling(max_new_tokens=job.settings.max_new_tokens, seed=job.settings.seed)
    samples = take_samples(model, job.tokenizer, prompts, sampling, 0)
    seconds = fit(job, model, attention, watch, temporary / "trainer")
    samples += take_samples(model, job.tokenizer, prompts, sampling, job.plan.num_steps)
    saving.save_weights(model, job.shards.tokenizer_folder, temporary)
    facts = run_facts(job, model, attention, watch.curve)
    facts |= {"name": out.name, "seconds": {"training": round(seconds, 1), "all": round(time.monotonic() - started, 1)}}
    return publish(job, out, temporary, watch.curve, facts, samples)


def check_fit(job: Job, model: Any) -> None:
    """Raise TrainingError where the shards do not fit the model: ids beyond its vocabulary, documents beyond its window."""
    rows = model.get_input_embeddings().weight.shape[0]
    if job.facts.largest_token_id >= rows:
        raise TrainingError(
            f"{job.shards.folder}: token id {job.facts.largest_token_id} is outside the model's vocabulary of {rows}; "
            "build the shards with the model's own tokenizer"
        )
    window = getattr(model.config, "max_position_embeddings", None)
    if window is not None and job.facts.longest_segment > window:
        raise TrainingError(
            f"{job.shards.folder}: a document has {job.facts.longest_segment} tokens, the model's window is {window}; "
            f"build with tokenize.sequence_len: {window}"
        )


def choose_attention(job: Job, model: Any) -> str:
    """Return the attention backend, and for packed rows prove on the model that it isolates their documents."""
    wanted = job.settings.attn_implementation
    if wanted == "auto":
        flash = torch.cuda.is_available() and job.precision.name != "float32" and job.train.packed
        names = ["flash_attention_2"] if flash and importlib.util.find_spec("flash_attn") else []
        names += ["sdpa", "eager"]
    else:
        names = [wanted]
    pad = padding_id(job.tokenizer)
    try:
        chosen = isolation.ensure_isolation(
            model, job.train, [(name, choose_collator(job.train, name, pad)) for name in names], job.precision
        )
        model.set_attn_implementation(chosen)
    except (ImportError, ValueError) as error:
        raise TrainingError(f"train.attn_implementation: {str(error).splitlines()[0]}") from error
    return chosen


def set_snapshots(job: Job, model: Any, watch: RunWatch, out: Path) -> None:
    """Have the weights saved every `save_steps` updates into `OUT.checkpoints/`; those of an earlier run go."""
    if not job.settings.save_steps:
        return
    folder = out.with_name(f"{out.name}.checkpoints")
    storage.remove_tree(folder)
    watch.save_steps = job.settings.save_steps
    watch.save_snapshot = lambda step: saving.save_snapshot(
        model, job.shards.tokenizer_folder, folder, step, job.settings.save_total_limit
    )


def choose_prompts(job: Job) -> list[Prompt]:
    """Return the prompts of the settings, or the beginning of a document that the model does not train on, if there is one."""
    if job.settings.sample_prompts:
        return [encode_prompt(job.tokenizer, text) for text in job.settings.sample_prompts]
    return [prompt_of_split(job.tokenizer, job.validation or job.train)]


def fit(job: Job, model: Any, attention: str, watch: RunWatch, folder: Path) -> float:
    """Train; returns the seconds it took. Raises TrainingError for NaN, or where the steps are not those planned."""
    pad = padding_id(job.tokenizer)
    arguments = training_arguments(
        job.settings, job.plan, job.precision, folder, validate=job.validation is not None
    )
    collators: tuple[Collator, Collator] = (
        choose_collator(job.train, attention, pad), choose_collator(job.validation or job.train, attention, pad)
    )
    watch.check_norm = not job.precision.fp16
    trainer = ShardTrainer(model, arguments, (job.train, job.validation), collators, watch)
    started = time.monotonic()
    trainer.train()
    watch.check()
    watch.check_weights(model, job.plan.num_steps)
    if job.validation is None and not math.isfinite(loss := trainer.loss_of_first_rows()):
        raise TrainingError(f"the loss is {loss} after the last step, so nothing was saved; a lower learning_rate helps")
    if trainer.state.global_step != job.plan.num_steps:
        raise TrainingError(f"{trainer.state.global_step} steps were made, {job.plan.num_steps} were planned")
    storage.remove_tree(folder)
    return time.monotonic() - started


def run_facts(job: Job, model: Any, attention: str, curve: Curve) -> dict[str, Any]:
    """Return what `train.json` and the card say of the run."""
    first = curve.points[0]
    return {
        "shards": {"name": job.shards.manifest.get("name", job.shards.folder.name), "xxh3": job.shards.manifest["xxh3"]},
        "counts": {
            "rows": job.facts.num_rows,
            "tokens": job.facts.num_tokens,
            "trained_tokens": job.facts.num_trained_tokens,
            "validation_rows": job.validation.num_rows if job.validation else 0,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "trained_parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        },
        "steps": job.plan.num_steps,
        "epochs": job.plan.num_epochs,
        "attention": attention,
        "precision": job.precision.name,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "losses": {
            "train_first": first.get(TRAIN),
            "train_last": curve.last(TRAIN),
            "validation_first": first.get(VALIDATION),
            "validation_last": curve.last(VALIDATION),
        },
    }


def publish(
    job: Job, out: Path, temporary: Path, curve: Curve, facts: dict[str, Any], samples: tuple[Sample, ...]
) -> TrainResult:
    """Write curves, record and card beside the weights and put the complete folder in the place of `out`."""
    picture = write_curves(temporary, curve, out.name)
    saving.write_record(temporary, job.settings, {**facts, "picture": picture.name}, samples)
    saving.flush(temporary)
    storage.publish(temporary, out)
    losses = facts["losses"]
    return TrainResult(
        out=out,
        curves=out / "curves.json",
        picture=out / picture.name,
        steps=job.plan.num_steps,
        initial_validation_loss=losses["validation_first"],
        train_loss=losses["train_last"],
        validation_loss=losses["validation_last"],
        samples=samples,
    )


def _out_of_memory(settings: TrainSettings) -> str:
    rows, accumulation = settings.micro_batch_size, settings.gradient_accumulation_steps
    if rows == 1:
        return "out of memory with one row at a time; use a smaller model, adapter: lora, or a smaller tokenize.sequence_len"
    return (
        f"out of memory with {rows} rows at a time; set train.micro_batch_size={rows // 2} and "
        f"train.gradient_accumulation_steps={accumulation * 2}: the batches stay the same"
    )
