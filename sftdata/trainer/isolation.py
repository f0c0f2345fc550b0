"""Before the first step: does a packed row give each of its documents what it would get alone, on this machine?

An attention mask of ones, a cache that is left on, or a backend that ignores positions lets documents of a row read each other.
Nothing fails then; the loss is just another one. So it is measured, on the model and the attention backend of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sftdata.errors import TrainingError
from sftdata.schemas import IGNORE_INDEX
from sftdata.shards import Split
from sftdata.trainer.data import Batch, Collator, Row
from sftdata.trainer.loss import logits_and_loss, loss_mass
from sftdata.trainer.model import Precision, first_line

LOSS_TOLERANCE = 1e-4
"""Nats a token, in float32; isolated documents differ by some 5e-7, joined ones by 0.6 on a model with sharp attention."""
LEAK_SHARE = {torch.float32: 0.01, torch.bfloat16: 0.1, torch.float16: 0.05}
"""How far logits may move, as a share of how far they move when documents do read each other. An untrained model hardly attends
to anything, so that its loss alone would show no leak."""


@dataclass(frozen=True)
class Isolation:
    """One packed row through the model, packed and document by document."""

    packed_loss: float
    alone_loss: float
    """The losses of the documents alone, weighted by their targets."""
    moved: float
    """The largest change of a logit that packing made."""
    leak: float
    """The largest change that joining the documents to one makes: what a leak would look like."""

    def holds(self, dtype: torch.dtype) -> bool:
        """Return whether the documents are isolated, within what `dtype` can tell."""
        same_loss = dtype != torch.float32 or abs(self.packed_loss - self.alone_loss) <= LOSS_TOLERANCE
        return same_loss and self.leak > 0 and self.moved <= LEAK_SHARE[dtype] * self.leak


def ensure_isolation(
    model: Any, row: Row, collators: Sequence[tuple[str, Collator]], precision: Precision, report: Callable[[str], None]
) -> str:
    """Return the first attention backend that isolates the documents of a packed row; the model is left set to it.

    A backend that does not, or that does not run on this machine, forwards or backwards, is passed over and named. Raises
    TrainingError where none is left.
    """
    failures: list[str] = []
    for implementation, collator in collators:
        problem = _problem(model, row, implementation, collator, precision)
        if problem is None:
            for failure in failures:
                report(f"attention passed over: {failure}")
            return implementation
        failures.append(f"{implementation}: {problem}")
    raise TrainingError(
        f"no attention backend keeps the documents of packed row {row['row']} apart on this machine: {'; '.join(failures)}; "
        "build with pack: {strategy: padding}, or take a model that heeds position_ids"
    )


def _problem(model: Any, row: Row, implementation: str, collator: Collator, precision: Precision) -> str | None:
    """Return what is wrong with an attention backend, or None."""
    try:
        model.set_attn_implementation(implementation)
        result = measure(model, row, collator, precision)
        if not result.holds(precision.dtype):
            return f"documents read each other, loss {result.packed_loss:.6f} packed, {result.alone_loss:.6f} alone"
        return None if learns(model, row, collator, precision) else "the gradient is not finite"
    except torch.OutOfMemoryError:
        raise
    except (ImportError, ValueError, TypeError, RuntimeError) as error:  # what kernels raise that this machine cannot run
        return first_line(error)


def find_probe(split: Split) -> Row | None:
    """Return the first row with at least two documents of two tokens or more, or None."""
    if not split.packed:
        return None
    first = 0
    for batch in split.flat_batches():
        offsets, lengths = batch["seq_lengths"]
        so_far = np.concatenate([[0], np.cumsum(lengths >= 2)])
        found = np.flatnonzero(so_far[offsets[1:]] - so_far[offsets[:-1]] >= 2)
        if len(found):
            index = first + int(found[0])
            return {**split.row(index), "row": index}
        first += len(offsets) - 1
    return None


def documents(row: Row) -> list[Row]:
    """Return the segments of a packed row, each as a row of one segment. First labels are −100: no target crosses a border."""
    columns = [name for name in ("input_ids", "labels", "loss_weights") if name in row]
    found: list[Row] = []
    end = 0
    for length in row["seq_lengths"].tolist():
        part: Row = {name: row[name][end : end + length].copy() for name in columns}
        part["labels"][:1] = IGNORE_INDEX
        found.append({**part, "seq_lengths": np.array([length], dtype=np.int32), "row": row["row"]})
        end += length
    return found


def measure(model: Any, row: Row, collator: Collator, precision: Precision) -> Isolation:
    """Run one packed row through the model as the collator makes it, and its documents alone."""
    parts = documents(row)
    packed = {**row, "labels": np.concatenate([part["labels"] for part in parts])}
    joined = {**packed, "seq_lengths": np.array([len(row["input_ids"])], dtype=np.int32)}
    was_training = model.training
    model.eval()
    try:
        packed_logits, packed_loss = _forward(model, collator([packed]), precision)
        joined_logits, _ = _forward(model, collator([joined]), precision)
        alone = [_forward(model, collator([part]), precision) for part in parts]
    finally:
        model.train(was_training)
    alone_logits = torch.cat([logits for logits, _ in alone], dim=1)
    mass = max(float(loss_mass(collator([packed]))), 1.0)
    return Isolation(
        packed_loss=packed_loss / mass,
        alone_loss=sum(loss for _, loss in alone) / mass,
        moved=float((packed_logits - alone_logits).abs().max()),
        leak=float((joined_logits - alone_logits).abs().max()),
    )


def learns(model: Any, row: Row, collator: Collator, precision: Precision) -> bool:
    """Return whether one packed row gives finite gradients, with dropout as in training; none of them is left."""
    was_training = model.training
    model.train()
    try:
        with torch.random.fork_rng():
            _, loss = logits_and_loss(model, collator([row]), precision)
            torch.autograd.backward(loss)
        grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
        return bool(grads) and all(bool(grad.isfinite().all()) for grad in grads)
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)


@torch.no_grad()
def _forward(model: Any, batch: Batch, precision: Precision) -> tuple[torch.Tensor, float]:
    """Return the logits (1, length, vocabulary) in float32 on the CPU, and the summed loss."""
    logits, loss = logits_and_loss(model, batch, precision)
    return logits.float().cpu(), float(loss)
