"""The end of a run: losses by source, the hardest samples, the diagnosis, and the folder put in its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sftdata import storage
from sftdata.shuffling import keyed_hash
from sftdata.trainer import saving
from sftdata.trainer.curves import TRAIN, VALIDATION, Curve, write_curves
from sftdata.trainer.diagnosis import diagnose
from sftdata.trainer.evaluating import NUM_HARDEST, by_source, hardest
from sftdata.trainer.job import Job
from sftdata.trainer.keeping import Keeper
from sftdata.trainer.result import Sample, TrainResult
from sftdata.trainer.shard_trainer import ShardTrainer

ROWS_SHARE = 10
"""The hardest training rows are looked for among a tenth of the rows that were trained: at most 3 % of the run's time."""


@dataclass
class Outcome:
    """What a run came to, before it is published."""

    out: Path
    curve: Curve
    samples: tuple[Sample, ...]
    steps: int
    attention: str
    best_step: int = 0
    stopped_early: bool = False
    seconds: dict[str, float] = field(default_factory=dict)


def publish(job: Job, trainer: ShardTrainer, keeper: Keeper, outcome: Outcome, temporary: Path) -> TrainResult:
    """Write weights, curves, hardest samples, record and card, and put the complete folder in the place of `out`."""
    sources, hard = look_back(job, trainer)
    tensors = keeper.gathered_weights()
    facts = run_facts(job, keeper.model, outcome)
    words = diagnose(outcome.curve)
    for line in words:
        job.report(line)
    facts |= {"diagnosis": words, "validation_by_source": sources}
    if job.group.is_main:
        storage.make_folder(temporary)
        saving.save_weights(keeper.model, job.shards.tokenizer_folder, temporary, tensors)
        picture = write_curves(temporary, outcome.curve, outcome.out.name).name
        storage.write_json(temporary / "hardest.json", hard)
        saving.write_record(temporary, job.settings, {**facts, "picture": picture}, outcome.samples)
        storage.remove_tree(temporary / "trainer")
        storage.publish(temporary, outcome.out)
    job.group.wait()
    picture = facts.get("picture") or ("curves.png" if (outcome.out / "curves.png").is_file() else "curves.svg")
    losses = facts["losses"]
    return TrainResult(
        out=outcome.out,
        curves=outcome.out / "curves.json",
        picture=outcome.out / picture,
        steps=outcome.steps,
        initial_validation_loss=losses["validation_first"],
        train_loss=losses["train_last"],
        validation_loss=losses["validation_last"],
        samples=outcome.samples,
        diagnosis=tuple(words),
    )


def look_back(job: Job, trainer: ShardTrainer) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the validation loss by source and the hardest samples, under the weights that are published."""
    found: list[dict[str, Any]] = []
    sources: dict[str, Any] = {}
    if trainer.validation is not None:
        split, collator = trainer.validation
        losses = trainer.losses(split, range(split.num_rows), collator)
        sources = by_source(losses, job.shards.folder, split.name)
        found += hardest(losses, job.shards.folder, split.name)
        for source, entry in sources.items():
            words = f"(perplexity {entry['perplexity']:,.1f}, {entry['documents']:,} documents)"
            job.report(f"validation loss of {source}: {entry['loss']:.4f} {words}")
    rows = some_rows(job)
    if rows:
        losses = trainer.losses(job.train, rows, trainer.updates.collator)
        found += hardest(losses, job.shards.folder, job.train.name)
    found.sort(key=lambda entry: -entry["loss"])
    return sources, found[:NUM_HARDEST]


def some_rows(job: Job) -> list[int]:
    """Return training rows, chosen by the seed, that the hardest samples are looked for in."""
    count = min(job.train.num_rows, job.plan.num_steps * job.plan.rows_per_step // ROWS_SHARE)
    keys = keyed_hash(np.arange(job.train.num_rows, dtype=np.uint64), seed=job.settings.seed, purpose="hardest")
    return sorted(np.argsort(keys, kind="stable")[:count].tolist())


def run_facts(job: Job, model: Any, outcome: Outcome) -> dict[str, Any]:
    """Return what `train.json` and the card say of the run."""
    first, curve = outcome.curve.points[0], outcome.curve
    return {
        "name": outcome.out.name,
        "shards": {"name": job.shards.manifest.get("name", job.shards.folder.name), "xxh3": job.shards.manifest["xxh3"]},
        "counts": {
            "rows": job.facts.num_rows,
            "tokens": job.facts.num_tokens,
            "trained_tokens": job.facts.num_trained_tokens,
            "validation_rows": job.validation.num_rows if job.validation else 0,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "trained_parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        },
        "steps": outcome.steps,
        "epochs": outcome.steps / job.plan.steps_per_epoch,
        "best_step": outcome.best_step if job.validation else None,
        "stopped_early": outcome.stopped_early,
        "processes": job.group.share.world_size,
        "attention": outcome.attention,
        "precision": job.precision.name,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "seconds": outcome.seconds,
        "losses": {
            "train_first": first.get(TRAIN),
            "train_last": curve.last(TRAIN),
            "validation_first": first.get(VALIDATION),
            "validation_last": curve.last(VALIDATION),
        },
    }


