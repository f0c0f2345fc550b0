"""The training loss: nats per trained token, weighted, normalised over a whole update."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from sftdata.schemas import IGNORE_INDEX
from sftdata.trainer.data import Batch, on_device
from sftdata.trainer.model import Precision


def shifted(labels: torch.Tensor, fill: float) -> torch.Tensor:
    """Return what each position predicts: column i holds column i + 1 of `labels` (rows, length), the last holds `fill`."""
    return functional.pad(labels, (0, 1), value=fill)[:, 1:]


def loss_mass(batch: Batch) -> torch.Tensor:
    """Return the sum of the weights of a batch's targets; without weights that is their number. A float64 scalar."""
    trained = shifted(batch["labels"], IGNORE_INDEX) != IGNORE_INDEX
    if "loss_weights" not in batch:
        return trained.sum().double()
    return (shifted(batch["loss_weights"], 0.0) * trained).sum(dtype=torch.float64)


def token_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    loss_weights: torch.Tensor | None = None,
    num_items_in_batch: torch.Tensor | float | None = None,
) -> torch.Tensor:
    """Return Σ weight · cross entropy over the targets, divided by `num_items_in_batch` (left as a sum where that is None).

    logits (rows, length, vocabulary), labels and loss_weights (rows, length), unshifted. Divided by the loss mass of all
    micro-batches of an update, accumulated gradients equal those of one large batch, whatever the number of trained tokens in
    each. A batch without targets gives 0.
    """
    if loss_weights is None:
        targets = shifted(labels, IGNORE_INDEX).reshape(-1)
        flat = logits.reshape(-1, logits.shape[-1]).float()
        total = functional.cross_entropy(flat, targets, ignore_index=IGNORE_INDEX, reduction="sum")
    else:
        total = losses_by_token(logits, labels, loss_weights).sum()
    if num_items_in_batch is None:
        return total
    mass = torch.as_tensor(num_items_in_batch, dtype=torch.float32, device=total.device)
    return torch.where(mass > 0, total / mass.clamp(min=torch.finfo(torch.float32).tiny), total * 0)


def losses_by_token(logits: torch.Tensor, labels: torch.Tensor, loss_weights: torch.Tensor | None = None) -> torch.Tensor:
    """Return weight · cross entropy for what each position predicts, (rows, length); 0 where that is not trained."""
    targets = shifted(labels, IGNORE_INDEX)
    flat = logits.reshape(-1, logits.shape[-1]).float()
    losses = functional.cross_entropy(flat, targets.reshape(-1), ignore_index=IGNORE_INDEX, reduction="none")
    losses = losses.reshape(targets.shape)
    return losses if loss_weights is None else losses * shifted(loss_weights, 0.0)


def logits_and_loss(model: Any, batch: Batch, precision: Precision) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits (rows, length, vocabulary) and the summed loss of a batch, in the precision of the run."""
    device = next(model.parameters()).device
    tensors = on_device(batch, device)
    labels, weights = tensors.pop("labels"), tensors.pop("loss_weights", None)
    mixed = precision.dtype != torch.float32
    with torch.autocast(device.type, dtype=precision.dtype if mixed else torch.bfloat16, enabled=mixed):
        logits = model(**tensors, use_cache=False).logits
    return logits, token_loss(logits, labels, weights)
