"""A training run from shards to a published model folder."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from sftdata import storage
from sftdata.errors import TrainingError
from sftdata.tokenizers.files import read_new_tokens
from sftdata.trainer import checkpoints, isolation, saving, varlen
from sftdata.trainer.adapters import base_note
from sftdata.trainer.data import PlannedUpdates, choose_collator
from sftdata.trainer.job import Job, Report, check_fit, prepare
from sftdata.trainer.keeping import Keeper, find_checkpoint
from sftdata.trainer.model import first_line, make_model, padding_id, parameter_table, quiet_transformers
from sftdata.trainer.probe import find_room
from sftdata.trainer.processes import Processes, joined
from sftdata.trainer.progress import Meter, flops_per_token, peak_flops
from sftdata.trainer.publishing import Outcome, publish
from sftdata.trainer.result import Sample, TrainResult
from sftdata.trainer.sampling import Prompt, Sampling, encode_prompt, prompt_of_split, take_samples
from sftdata.trainer.settings import TrainSettings
from sftdata.trainer.shard_trainer import ShardTrainer, out_of_memory, training_arguments
from sftdata.trainer.tracking import trackers
from sftdata.trainer.watch import Hooks, Rhythm, RunWatch


def train(shards_folder: Path, out: Path, settings: TrainSettings, report: Report, *, resume: bool = False) -> TrainResult:
    """Train on the shards and publish the model as `out`; see `sftdata.trainer.run`."""
    out = Path(os.path.abspath(out))
    with joined() as group, _held(out, group), quiet_transformers():
        temporary = storage.temporary_name(out)
        try:
            job = prepare(shards_folder, settings, report, group)
            return run_job(job, out, temporary, resume)
        except torch.OutOfMemoryError as error:
            raise TrainingError(out_of_memory(settings.micro_batch_size, settings.gradient_accumulation_steps)) from error
        finally:
            storage.remove_tree(temporary)


@contextlib.contextmanager
def _held(out: Path, group: Processes) -> Iterator[None]:
    """Hold the lock of `out` and mend what a killed run left there; of several processes, the main one does."""
    if not group.is_main:
        yield
        return
    with storage.lock(out):
        storage.recover(out)
        saving.check_target(out)
        saving.clear_leftovers(out)
        yield


@dataclass
class Run:
    """A run while it goes on."""

    job: Job
    model: Any
    attention: str
    watch: RunWatch
    trainer: ShardTrainer
    keeper: Keeper
    prompts: list[Prompt]
    started: float = field(default_factory=time.monotonic)

    def sample(self, step: int) -> None:
        """Let the model continue every prompt."""
        if self.job.group.sharded:
            return  # no process holds a model that could write
        sampling = Sampling(max_new_tokens=self.job.settings.max_new_tokens, seed=self.job.settings.seed)
        found = take_samples(self.keeper.model, self.job.tokenizer, self.prompts, sampling, step)
        self.keeper.samples += found
        for sample in found if step else ():
            self.job.report(f"sample after step {step}: {_one_line(sample)}")


def run_job(job: Job, out: Path, temporary: Path, resume: bool) -> TrainResult:
    """Make the model, train it, and publish the folder."""
    checkpoint = find_checkpoint(job, checkpoints.folder_of(out), resume)
    run = start(job, out, temporary, checkpoint)
    if checkpoint is None:
        run.sample(0)
    seconds = fit(run)
    step = run.trainer.state.global_step or run.watch.first_step
    if job.settings.load_best_model_at_end and run.watch.best.step != step:
        run.keeper.load_best()
    run.sample(step)
    outcome = Outcome(
        out, run.watch.curve, tuple(run.keeper.samples), step, run.attention,
        best_step=run.watch.best.step, stopped_early=run.watch.stopped_early,
    )
    outcome.seconds = {"training": round(seconds, 1), "all": round(time.monotonic() - run.started, 1)}
    return publish(job, run.trainer, run.keeper, outcome, temporary)


def start(job: Job, out: Path, temporary: Path, checkpoint: checkpoints.Checkpoint | None) -> Run:
    """Make the model and everything around it, as it was at the checkpoint where there is one."""
    set_seed(job.settings.seed)
    resume_from = None if checkpoint is None else checkpoint.folder
    new_tokens = read_new_tokens(job.shards.tokenizer_folder)
    model = make_model(job.settings, job.tokenizer, job.window, job.precision, new_tokens, resume_from=resume_from)
    check_fit(job, model)
    for line in (*parameter_table(model), *filter(None, [base_note(job.settings)])):
        job.report(line)
    if job.settings.adapter != "qlora":  # whose loader put it there
        model.to("cuda" if torch.cuda.is_available() else "cpu")
    attention = choose_attention(job, model)
    job.report(f"computing in {job.precision.name} on {model.device.type}, attention {attention}")
    pad = padding_id(job.tokenizer)
    collator = choose_collator(job.train, attention, pad)
    updates = PlannedUpdates(job.train, job.plan, job.settings.seed, collator, job.group.share)
    find_room(model, updates, job)
    watch = make_watch(job, model)
    validation = None if job.validation is None else (job.validation, choose_collator(job.validation, attention, pad))
    arguments = training_arguments(
        job.settings, job.plan, job.precision, temporary / "trainer",
        validate=validation is not None, resumed=checkpoint is not None,
    )
    trainer = ShardTrainer(model, arguments, updates, validation, watch, group=job.group)
    for tracker in trackers(job.settings, out, job.report) if job.group.is_main else ():
        trainer.add_callback(tracker)
    keeper = Keeper(job, checkpoints.folder_of(out), trainer)
    run = Run(job, model, attention, watch, trainer, keeper, choose_prompts(job))
    set_hooks(run, checkpoint)
    return run


def make_watch(job: Job, model: Any) -> RunWatch:
    """Return the watch of a run; what it has done at its steps is not set yet."""
    settings = job.settings
    peak = peak_flops()
    meter = Meter(
        job.plan.num_steps,
        flops_per_token(model, job.facts.mean_context),
        None if peak is None else peak * job.group.share.world_size,
    )
    rhythm = Rhythm(settings.save_steps, settings.sample_steps or 0, settings.early_stopping_patience or 0)
    return RunWatch(job.plan, job.shards.folder, job.report, meter, rhythm, check_norm=not job.precision.fp16)


def set_hooks(run: Run, checkpoint: checkpoints.Checkpoint | None) -> None:
    """Say what is done at checkpoints, at a new best model and at samples; go on from a checkpoint."""
    settings, keeper = run.job.settings, run.keeper
    run.watch.hooks = Hooks(
        checkpoint=keeper.checkpoint if settings.save_steps else None,
        best=keeper.best if settings.load_best_model_at_end else None,
        sample=run.sample,
    )
    if checkpoint is not None:
        run.watch.restore(checkpoint.step, checkpoint.record["watch"], checkpoint.folder)
        keeper.samples = [Sample(**sample) for sample in checkpoint.record["samples"]]
        run.watch.hooks.restore = lambda: keeper.restore(checkpoint)


def choose_attention(job: Job, model: Any) -> str:
    """Return the attention backend, and for packed rows prove on the model that it isolates their documents."""
    wanted, row = job.settings.attn_implementation, isolation.find_probe(job.train)
    try:
        varlen.register()
        if row is None:
            model.set_attn_implementation(chosen := "sdpa" if wanted == "auto" else wanted)
            return chosen
        names = _backends(job) if wanted == "auto" else [wanted]
        collators = [(name, choose_collator(job.train, name, padding_id(job.tokenizer))) for name in names]
        return isolation.ensure_isolation(model, row, collators, job.precision, job.report)
    except (ImportError, ValueError) as error:
        raise TrainingError(f"train.attn_implementation: {first_line(error)}") from error


def _backends(job: Job) -> list[str]:
    """Return the attention backends for packed rows on this machine, the fastest first."""
    names = ["sdpa", "eager"]
    if not torch.cuda.is_available() or job.precision.name == "float32":
        return names
    flash = ["flash_attention_2"] if importlib.util.find_spec("flash_attn") else []
    return [*flash, *([varlen.NAME] if varlen.is_available() else []), *names]


def choose_prompts(job: Job) -> list[Prompt]:
    """Return the prompts of the settings, or the beginning of a document that the model does not train on, if there is one."""
    if job.settings.sample_prompts:
        return [encode_prompt(job.tokenizer, text) for text in job.settings.sample_prompts]
    return [prompt_of_split(job.tokenizer, job.validation or job.train)]


def fit(run: Run) -> float:
    """Train; returns the seconds it took. Raises TrainingError for NaN, or where the steps are not those planned."""
    job, trainer, watch = run.job, run.trainer, run.watch
    if watch.first_step >= job.plan.num_steps:
        return 0.0  # the checkpoint is that of the last step: only the publishing was missing
    started = time.monotonic()
    try:
        trainer.train()
    except KeyboardInterrupt:
        job.report(stopped_words(run))
        raise
    watch.check()
    watch.check_weights(run.model, trainer.state.global_step)
    if job.validation is None:
        first = trainer.updates.rows(0)[: job.settings.micro_batch_size]
        loss = trainer.losses(job.train, first, trainer.updates.collator).mean
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} after the last step, so nothing was saved; a lower learning_rate helps")
    if trainer.state.global_step != job.plan.num_steps and not watch.stopped_early:
        raise TrainingError(f"{trainer.state.global_step} steps were made, {job.plan.num_steps} were planned")
    return time.monotonic() - started


def stopped_words(run: Run) -> str:
    """Say where a run was stopped and what it can go on from."""
    place = f"stopped in step {run.trainer.state.global_step + 1:,} of {run.job.plan.num_steps:,}"
    found = sorted(run.keeper.folder.glob("step-*"))
    if found:
        return f"{place}; the same command with --resume goes on from {found[-1]}"
    return f"{place}; there is no checkpoint to go on from: train.save_steps=100 would write one every 100 steps"


def _one_line(sample: Sample) -> str:
    return " ".join(f"{sample.prompt!r} → {sample.text!r}".split())


