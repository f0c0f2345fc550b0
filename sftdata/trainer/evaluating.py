"""The loss of every document of some rows: of a split, of each source, and of the samples that the model finds hardest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sftdata.shards import Split
from sftdata.trainer.data import Batch, Collator, by_length, row_of
from sftdata.trainer.loss import losses_by_token
from sftdata.trainer.processes import Processes
from sftdata.trainer.provenance import origins

NUM_HARDEST = 50
"""Samples of the highest loss that are kept."""

Forward = Callable[[Batch], torch.Tensor]
"""A batch without its labels, on the CPU → logits (rows, length, vocabulary)."""


@dataclass(frozen=True)
class DocumentLosses:
    """Summed loss and summed weight of the targets of documents, in no order; four arrays of one length."""

    rows: np.ndarray
    segments: np.ndarray
    losses: np.ndarray
    masses: np.ndarray

    @property
    def mean(self) -> float:
        """Nats a trained token over all of them; 0 where nothing is trained. Summed exactly, whatever the order."""
        mass = math.fsum(self.masses)
        return math.fsum(self.losses) / mass if mass else 0.0


def measure(
    split: Split, rows: Sequence[int], collator: Collator, forward: Forward, *, size: int, group: Processes
) -> DocumentLosses:
    """Return the losses of every document of `rows`; each process takes its share, `size` rows at a time.

    A process without rows takes part with a row whose result is thrown away, since a sharded model needs every process.
    """
    mine = by_length(split, group.share.of(rows))
    num_batches = group.share.num_batches(len(rows), size)
    found: list[np.ndarray] = []
    for number in range(num_batches):
        cut = mine[number * size : (number + 1) * size]
        losses = _batch_losses(split, cut or list(rows[:1]), collator, forward)
        found += [losses] if cut else []
    table = np.concatenate(found) if found else np.zeros((0, 4))
    parts = [part[0].numpy() for part in group.gathered([torch.from_numpy(table)])]
    row, segment, loss, mass = np.concatenate(parts).T
    return DocumentLosses(row.astype(np.int64), segment.astype(np.int64), loss, mass)


def _batch_losses(split: Split, rows: Sequence[int], collator: Collator, forward: Forward) -> np.ndarray:
    """Return (documents, 4): row, segment, summed loss, summed weight."""
    read = [row_of(split, row) for row in rows]
    batch = collator(read)
    labels, weights = batch["labels"], batch.get("loss_weights")
    logits = forward({name: value for name, value in batch.items() if name not in ("rows", "labels", "loss_weights")})
    device = logits.device
    with torch.no_grad():
        by_token = losses_by_token(logits, labels.to(device), None if weights is None else weights.to(device))
    values = by_token.double().cpu().numpy()
    mass = ((labels != -100) * (1.0 if weights is None else weights.double())).numpy().astype(np.float64)
    mass[:, 0] = 0.0
    # A loss stands where its target is predicted; moved by one, it stands at its target.
    values = np.concatenate([np.zeros((len(values), 1)), values[:, :-1]], axis=1)
    parts: list[np.ndarray] = []
    lengths = [len(row["input_ids"]) for row in read]
    joined = len(values) == 1
    starts = np.cumsum([0, *lengths]) if joined else np.zeros(len(read) + 1, dtype=np.int64)
    for place, row in enumerate(read):
        line = 0 if joined else place
        span = slice(int(starts[place]), int(starts[place]) + lengths[place])
        segments = row["seq_lengths"].astype(np.int64) if split.packed else np.array([lengths[place]])
        parts.append(_by_segment(row["row"], segments, values[line, span], mass[line, span]))
    return np.concatenate(parts)


def _by_segment(row: int, segments: np.ndarray, values: np.ndarray, mass: np.ndarray) -> np.ndarray:
    numbers = np.repeat(np.arange(len(segments)), segments)
    sums = [np.bincount(numbers, weights=column, minlength=len(segments)) for column in (values, mass)]
    return np.stack([np.full(len(segments), float(row)), np.arange(len(segments), dtype=np.float64), *sums], axis=1)


def by_source(found: DocumentLosses, shards_folder: Path, split: str) -> dict[str, dict[str, float]]:
    """Return the loss, perplexity and number of trained documents of every source, by name; empty without a lineage."""
    known = origins(shards_folder, split)
    groups: dict[str, list[int]] = {}
    for place, key in enumerate(zip(found.rows.tolist(), found.segments.tolist(), strict=True)):
        if key in known and found.masses[place] > 0:
            groups.setdefault(known[key][0], []).append(place)
    table: dict[str, dict[str, float]] = {}
    for source, places in sorted(groups.items()):
        loss = math.fsum(found.losses[places]) / math.fsum(found.masses[places])
        table[source] = {"loss": loss, "perplexity": perplexity(loss), "documents": len(places)}
    return table


def perplexity(loss: float) -> float:
    """Return e to the loss; infinite where a float cannot hold it."""
    return math.exp(loss) if loss < 700 else math.inf


def hardest(found: DocumentLosses, shards_folder: Path, split: str) -> list[dict[str, Any]]:
    """Return the documents of the highest loss a token, the hardest first, with where they came from."""
    trained = np.flatnonzero(found.masses > 0)
    means = found.losses[trained] / found.masses[trained]
    # Sorted by place where losses are equal, so that the list is the same every time.
    order = np.lexsort((found.segments[trained], found.rows[trained], -means))[:NUM_HARDEST]
    chosen = trained[order]
    known = origins(shards_folder, split, sorted({int(row) for row in found.rows[chosen]}))
    rows = []
    for place, mean in zip(chosen.tolist(), means[order].tolist(), strict=True):
        row, segment = int(found.rows[place]), int(found.segments[place])
        source, identifier = known.get((row, segment), (None, None))
        entry = {"split": split, "row": row, "segment": segment, "source": source, "id": identifier}
        rows.append({**entry, "loss": mean, "trained_tokens": float(found.masses[place])})
    return rows
