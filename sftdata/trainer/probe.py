"""Before the first step on a GPU: does the longest batch fit? An hour of training must not end at a batch that never could."""

from __future__ import annotations

import math
from typing import Any

import torch

from sftdata.errors import TrainingError
from sftdata.trainer.data import Batch, PlannedUpdates
from sftdata.trainer.job import Job
from sftdata.trainer.loss import logits_and_loss
from sftdata.trainer.shard_trainer import out_of_memory


def find_room(model: Any, updates: PlannedUpdates, job: Job) -> None:
    """Make one step at the longest rows, without an update, and halve the micro-batch until it fits.

    Only on a GPU: a processor's memory can be swapped, and the plan has compared it with the estimate. Sharded and several
    processes are left out, since one cannot be cut smaller than the others. Raises TrainingError where one row does not fit.
    """
    if not torch.cuda.is_available() or job.group.several:
        return
    lengths = job.train.lengths()
    while True:
        size = updates.micro_batch_size
        rows = lengths.argsort(kind="stable")[-size:].tolist()
        try:
            _forward_backward(model, updates.collate(rows, size)[0], job)
            return
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise TrainingError(out_of_memory(1, 1)) from error
            updates.micro_batch_size = math.ceil(size / 2)
            smaller = updates.micro_batch_size
            job.report(f"the {size} longest rows do not fit: going on with {smaller} at a time, the batches stay the same")
        finally:
            model.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()


def _forward_backward(model: Any, batch: Batch, job: Job) -> None:
    """Compute loss and gradients of one batch, with as much memory taken as the optimiser will take."""
    device = next(model.parameters()).device
    num_trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    moments = torch.empty(2 * num_trained, dtype=torch.float32, device=device)
    model.train()
    _, loss = logits_and_loss(model, batch, job.precision)
    torch.autograd.backward(loss)
    del moments
