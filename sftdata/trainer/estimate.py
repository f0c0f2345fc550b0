"""What a run will cost, before it is paid for: steps, tokens, memory, time, and a learning rate to begin with."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sftdata.trainer.adapters import add_adapter
from sftdata.trainer.advice import advice
from sftdata.trainer.architecture import from_config
from sftdata.trainer.data import PlannedUpdates, choose_collator
from sftdata.trainer.job import Job, check_fit, prepare
from sftdata.trainer.model import base_type, find_base, fit_embeddings, padding_id, quiet_transformers, train_embeddings_only
from sftdata.trainer.plan import suggested_learning_rate
from sftdata.trainer.progress import duration, flops_per_token, peak_flops
from sftdata.trainer.result import Memory, TrainPlan
from sftdata.trainer.settings import TrainSettings

GIB = 1 << 30
EFFICIENCY = 0.4
"""Share of a device's peak that training reaches; 40 to 50 % is usual on one GPU with 16-bit weights."""
RATE_SECONDS = 0.1
"""How long the speed of an unknown device is measured."""
QLORA_BYTES = 0.55
"""Bytes a weight of 4 bits, with its twice quantised scales (Dettmers et al. 2023)."""


def plan(shards_folder: Path, settings: TrainSettings) -> TrainPlan:
    """Work out what a run will do and cost, without the weights of any model. Raises what `run` raises before it starts."""
    lines: list[str] = []
    with quiet_transformers():
        job = prepare(shards_folder, settings, lines.append)
        model = shape_of(job)
        check_fit(job, model)
        memory = Memory(*state_bytes(model, job.settings), activation_bytes(model, job, settings.micro_batch_size))
        found = _numbers(job, model, memory)
        words = [line for line in lines if not line.startswith("advice:")]
        words += _memory_words(job, model, found), *_speed_words(job, found)
        words += advice(job.shards, job.facts, job.plan, job.settings)
    return replace(found, lines=tuple(words))


def _numbers(job: Job, model: Any, memory: Memory) -> TrainPlan:
    padding, positions = padding_of(job)
    passes = job.plan.num_epochs
    seconds = positions * passes * flops_per_token(model, job.facts.mean_context) / device_rate()
    suggested = None
    if job.settings.fine_tunes:
        suggested = suggested_learning_rate(job.facts, job.plan, job.settings, base_type(str(job.settings.base_model)))
    return TrainPlan(
        rows=job.facts.num_rows,
        steps=job.plan.num_steps,
        epochs=passes,
        tokens=round(job.facts.num_tokens * passes),
        trained_tokens=round(job.facts.num_trained_tokens * passes),
        padding=padding,
        parameters=sum(weight.numel() for weight in model.parameters()),
        trained_parameters=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        memory=memory,
        available_memory=available_memory(),
        seconds=seconds,
        learning_rate=job.learning_rate,
        suggested_learning_rate=suggested,
    )


def shape_of(job: Job) -> Any:
    """Return the model that the run would train, on the meta device: shapes without weights."""
    settings = job.settings
    num_tokens = len(job.tokenizer)
    with torch.device("meta"):
        if settings.base_model is None:
            model = from_config(replace(settings, init="default"), num_tokens, job.window)
        else:
            where, local = find_base(settings.base_model)
            config = AutoConfig.from_pretrained(where, trust_remote_code=False, local_files_only=local)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
            fit_embeddings(model, num_tokens, mean_resizing=False)
        if settings.adapter is not None:
            shape = replace(settings, adapter="lora", lora_model_dir=None)
            return add_adapter(model, shape, train_embeddings=False)
    if settings.trainable == "embeddings":
        train_embeddings_only(model)
    return model


def state_bytes(model: Any, settings: TrainSettings) -> tuple[int, int, int]:
    """Return the bytes of weights, gradients, and Adam's two moments: 4 each and trained weight; a frozen base takes fewer."""
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    frozen = sum(weight.numel() for weight in model.parameters()) - trained
    half = torch.cuda.is_available() and settings.adapter is not None
    frozen_bytes = QLORA_BYTES if settings.adapter == "qlora" else 2 if half else 4
    return 4 * trained + round(frozen * frozen_bytes), 4 * trained, 8 * trained


def activation_bytes(model: Any, job: Job, micro_batch_size: int) -> int:
    """Return the bytes that a forward pass of the longest batch keeps for the backward pass.

    Counted on shapes alone: every tensor that autograd saves, once, without attention scores, which the kernels in use compute
    anew, and without weights. Computing in 16 bits halves all but the logits.
    """
    length = job.facts.longest_row
    rows = min(micro_batch_size, job.facts.num_rows)
    kept: dict[int, int] = {}
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        scores = tensor.dim() >= 3 and tensor.shape[-1] == tensor.shape[-2] == length
        if storage._cdata not in weights and not scores:
            kept[storage._cdata] = storage.nbytes()
            alive.append(storage)  # a freed one's number would be given to another
        return tensor

    alive: list[Any] = []
    ids = torch.zeros((rows, length), dtype=torch.long, device="meta")
    mask = torch.ones((1, 1, length, length), dtype=torch.bool, device="meta")  # a ready one: to make one takes values
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    logit_bytes = 2 * 4 * int(logits.numel())  # in float32, with their gradient
    share = 0.5 if job.precision.name != "float32" else 1.0
    layers = max(int(getattr(model.config, "num_hidden_layers", 1)), 1)
    if job.settings.gradient_checkpointing:
        share /= layers
    return round(sum(kept.values()) * share) + logit_bytes


def padding_of(job: Job) -> tuple[float, int]:
    """Return the share of an epoch's positions that are padding, and the positions of an epoch."""
    lengths = job.train.lengths()
    collator = choose_collator(job.train, "sdpa", padding_id(job.tokenizer))
    updates = PlannedUpdates(job.train, job.plan, job.settings.seed, collator)
    size, positions = job.plan.micro_batch_size, 0
    for step in range(job.plan.steps_per_epoch):
        found = lengths[updates.rows(step)]
        found = found if job.train.packed else np.sort(found)
        for start in range(0, len(found), size):
            cut = found[start : start + size]
            positions += int(cut.max()) * len(cut)
    return 1 - job.facts.num_tokens / max(positions, 1), positions


def available_memory() -> int:
    """Return the bytes that are free on the GPU, or in this machine's memory."""
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return int(free)
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def device_rate() -> float:
    """Return the floating-point operations a second that training will make on this machine, roughly."""
    peak = peak_flops()
    return EFFICIENCY * (peak or _measured_rate())


def _measured_rate() -> float:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.rand((512, 512), device=device)
    operations, started = 0, time.monotonic()
    while time.monotonic() - started < RATE_SECONDS:
        float((matrix @ matrix)[0, 0])
        operations += 2 * 512**3
    return operations / (time.monotonic() - started)


def _memory_words(job: Job, model: Any, found: TrainPlan) -> str:
    """Say what the memory is needed for, and how to split the batch where there is too little."""
    memory, settings = found.memory, job.settings
    parts = ", ".join(f"{name} {_size(getattr(memory, name))}" for name in ("weights", "gradients", "optimiser", "activations"))
    batch = f"{settings.micro_batch_size} rows of {job.facts.longest_row:,} tokens"
    head = f"memory: {_size(memory.total)} at {batch} ({parts}); {_size(found.available_memory)} are free"
    lack = memory.total - found.available_memory
    if lack <= 0:
        return head
    return f"{head}: too little by {_size(lack)}; {_cure(job, model, found)}"


def _cure(job: Job, model: Any, found: TrainPlan) -> str:
    rest = found.memory.total - found.memory.activations
    size, accumulation = job.settings.micro_batch_size, job.settings.gradient_accumulation_steps
    needs: Callable[[int], int] = lambda rows: rest + activation_bytes(model, job, rows)  # noqa: E731
    while size > 1 and needs(size) > found.available_memory:
        size, accumulation = math.ceil(size / 2), accumulation * 2
    if needs(size) <= found.available_memory:
        split = f"micro_batch_size: {size} and gradient_accumulation_steps: {accumulation}"
        return f"{split} make the same batches in {_size(needs(size))}"
    return "even one row is too many: adapter: lora, gradient_checkpointing: true or a smaller model would help"


def _speed_words(job: Job, found: TrainPlan) -> list[str]:
    per_step = job.facts.num_trained_tokens / job.plan.steps_per_epoch
    lines = [
        f"tokens: {found.tokens:,} in the whole run, {found.trained_tokens:,} of them trained, {per_step:,.0f} a step; "
        f"{found.padding:.1%} padding on top",
        f"parameters: {found.parameters:,}, {found.trained_parameters:,} of them trained",
        f"time: about {duration(found.seconds)} on {_device()}, validation aside",
    ]
    if found.suggested_learning_rate is not None:
        given = "" if found.learning_rate == found.suggested_learning_rate else f"; the recipe says {found.learning_rate:.3g}"
        lines.append(f"learning rate: {found.suggested_learning_rate:.3g} is suggested (learning_rate: auto){given}")
    return lines


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"this processor ({torch.get_num_threads()} threads)"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / GIB:,.1f} GiB" if num_bytes >= GIB else f"{num_bytes / (1 << 20):,.1f} MiB"


