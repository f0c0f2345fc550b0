"""Rows of shards as batches of tensors. Nothing is tokenized, and nothing but the plan decides what a batch holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sftdata.schemas import IGNORE_INDEX
from sftdata.shards import Split
from sftdata.trainer.plan import RunPlan, epoch_order

Row = dict[str, Any]
"""One array a column, and the row's number under `row`."""
Batch = dict[str, Any]
"""Tensors and numbers by the model's argument names, and under `rows` a list of row numbers."""
Collator = Callable[[Sequence[Row]], Batch]


@dataclass(frozen=True)
class Share:
    """Which part of every update one of several processes computes."""

    rank: int = 0
    world_size: int = 1

    def of(self, rows: Sequence[int]) -> list[int]:
        """Return this process's rows: every `world_size`-th."""
        return list(rows[self.rank :: self.world_size])

    def num_batches(self, num_rows: int, size: int) -> int:
        """Return how many batches of `size` rows every process makes of `num_rows`: as many as the one with most rows."""
        return math.ceil(math.ceil(num_rows / self.world_size) / size)


ALONE = Share()


class Update(dict[str, Any]):
    """One update: its number under `step` (from 0), `rows` of all processes, and this one's micro-batches under `batches`."""


class PlannedUpdates(Dataset[Update]):
    """The updates of a run by number: what one holds is a function of (shards, seed, number) alone.

    Nothing that comes before it need be read, so that a run can begin anywhere. How an update is cut into micro-batches and
    dealt to processes changes nothing but the order in which its losses are added up.
    """

    def __init__(self, split: Split, plan: RunPlan, seed: int, collator: Collator, share: Share = ALONE) -> None:
        self.split = split
        self.plan = plan
        self.seed = seed
        self.collator = collator
        self.share = share
        self.micro_batch_size = plan.micro_batch_size
        self._order: tuple[int, Any] = (-1, None)

    def __len__(self) -> int:
        """Return the number of updates of the whole run."""
        return self.plan.num_steps

    def rows(self, step: int) -> list[int]:
        """Return the row numbers of update `step` (from 0); the last update of an epoch takes the rows that are left."""
        epoch, place = divmod(step, self.plan.steps_per_epoch)
        if self._order[0] != epoch:
            split = self.split
            order = epoch_order(split.num_rows, split.bucket_rows, self.seed, epoch, group_rows=split.group_rows)
            self._order = epoch, order
        start = place * self.plan.rows_per_step
        rows: list[int] = self._order[1][start : start + self.plan.rows_per_step].tolist()
        return rows

    def __getitem__(self, step: int) -> Update:
        """Return update `step`."""
        rows = self.rows(step)
        return Update(step=step, rows=rows, batches=self.collate(rows, self.micro_batch_size))

    def collate(self, rows: Sequence[int], micro_batch_size: int) -> list[Batch]:
        """Return this process's micro-batches of an update, as many as every other process has."""
        mine = by_length(self.split, self.share.of(rows))
        count = self.share.num_batches(len(rows), micro_batch_size)
        cuts = [mine[start : start + micro_batch_size] for start in range(0, len(mine), micro_batch_size)]
        batches = [self.collator([row_of(self.split, row) for row in cut]) for cut in cuts]
        missing = count - len(batches)
        return batches + [self._idle(rows[0]) for _ in range(missing)]

    def _idle(self, row: int) -> Batch:
        """Return a batch that trains nothing: a process without rows must still take part in the exchange of gradients."""
        batch = self.collator([row_of(self.split, row)])
        return {**batch, "labels": torch.full_like(batch["labels"], IGNORE_INDEX)}


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return what of a batch goes into the model, and its labels, on a device."""
    found = {name: value for name, value in batch.items() if name != "rows"}
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in found.items()}


def row_of(split: Split, index: int) -> Row:
    """Return row `index` of a split, a view into the memory map."""
    return {**split.row(index), "row": index}


def by_length(split: Split, rows: Sequence[int]) -> list[int]:
    """Return rows sorted by length where they are padded: rows of like length need little padding."""
    if split.packed:
        return list(rows)
    return sorted(rows, key=lambda row: len(split.row(row)["input_ids"]))


def update_loader(updates: PlannedUpdates, first: int, num_workers: int = 0) -> DataLoader[Update]:
    """Return a loader of the updates from number `first` on; the updates before it are not read."""
    return _UpdateLoader(
        updates, batch_size=None, sampler=range(first, len(updates)), num_workers=num_workers, collate_fn=_unchanged,  # type: ignore[arg-type]
        pin_memory=torch.cuda.is_available(),
    )


class _UpdateLoader(DataLoader[Update]):
    """A loader whose length is that of the whole run, from wherever it starts: to transformers, the run is one epoch."""

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]


def _unchanged(update: Update) -> Update:
    return update


def choose_collator(split: Split, attn_implementation: str, pad_token_id: int) -> Collator:
    """Return what turns rows of this split into batches for this attention backend."""
    if not split.packed:
        return PaddedBatches(pad_token_id)
    return OneRowBatches() if attn_implementation in VARIABLE_LENGTH else PackedBatches(pad_token_id)


VARIABLE_LENGTH = ("flash_attention_2", "flash_attention_3", "varlen")
"""Attention backends that take documents one after the other, told apart by their borders."""


class PackedBatches:
    """Packed rows, one under the other, for backends that isolate documents by a mask built from the positions.

    Positions restart at 0 at each segment and there is no attention mask: transformers then isolates the segments, which an
    all-ones mask would silently undo. What fills up the shorter rows is a segment of its own. One row under the other costs
    rows · length² in the mask and in the scores; all in one row would cost (rows · length)².
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Return input_ids, position_ids, labels (and loss_weights): (rows, longest row) each."""
        longest = max(len(row["input_ids"]) for row in rows)
        positions = np.stack([_padded_positions(row["seq_lengths"], longest) for row in rows])
        return {**_stacked(rows, longest, self.pad_token_id), "position_ids": torch.from_numpy(positions)}


class OneRowBatches:
    """Packed rows joined to one row without any padding, as FlashAttention's variable-length kernels take them."""

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Return input_ids, position_ids, labels (and loss_weights): (1, all tokens) each; and the borders of the documents.

        Left to find the borders in the positions, transformers would do so in every layer, and wait for the GPU each time.
        """
        positions = np.concatenate([_positions(row["seq_lengths"]) for row in rows])
        joined: Row = {"input_ids": np.concatenate([row["input_ids"] for row in rows]), "row": 0}
        # A row's first label would otherwise become a target of the row before it.
        joined["labels"] = np.concatenate([_without_first(row["labels"]) for row in rows])
        if "loss_weights" in rows[0]:
            joined["loss_weights"] = np.concatenate([row["loss_weights"] for row in rows])
        batch = _stacked([joined], len(positions), 0)
        borders = _borders(np.concatenate([row["seq_lengths"] for row in rows]))
        return {**batch, **borders, "rows": [row["row"] for row in rows], "position_ids": torch.from_numpy(positions[None])}


class PaddedBatches:
    """Unpacked rows padded on the right. The mask comes from the lengths, never from the ids: the pad token may be EOS."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Return input_ids, attention_mask, labels (and loss_weights): (rows, longest row) each."""
        lengths = np.array([len(row["input_ids"]) for row in rows])
        mask = np.arange(lengths.max())[None, :] < lengths[:, None]
        batch = _stacked(rows, int(lengths.max()), self.pad_token_id)
        return {**batch, "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def _stacked(rows: Sequence[Row], length: int, pad_token_id: int) -> Batch:
    """Fill up the columns of `rows` to `length` on the right; what is filled in is never trained."""
    columns: list[tuple[str, float, type]] = [("input_ids", pad_token_id, np.int64), ("labels", IGNORE_INDEX, np.int64)]
    if "loss_weights" in rows[0]:
        columns.append(("loss_weights", 0.0, np.float32))
    batch: Batch = {"rows": [row["row"] for row in rows]}
    for name, fill, dtype in columns:
        values: np.ndarray = np.full((len(rows), length), fill, dtype=dtype)
        for target, row in zip(values, rows, strict=True):
            target[: len(row[name])] = row[name]
        batch[name] = torch.from_numpy(values)
    return batch


def _borders(seq_lengths: np.ndarray) -> Batch:
    """Return the arguments by which transformers' FlashAttention knows documents: where each begins, and the longest."""
    lengths = seq_lengths[seq_lengths > 0]
    starts = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    longest = int(lengths.max())
    return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}


def _without_first(labels: np.ndarray) -> np.ndarray:
    return np.concatenate([np.full(1, IGNORE_INDEX, dtype=labels.dtype), labels[1:]])


def _positions(seq_lengths: np.ndarray) -> np.ndarray:
    """Return 0, 1, 2 … from the start of each segment, int64."""
    lengths = seq_lengths.astype(np.int64)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.arange(len(starts), dtype=np.int64) - starts


def _padded_positions(seq_lengths: np.ndarray, length: int) -> np.ndarray:
    positions = _positions(seq_lengths)
    return np.concatenate([positions, np.arange(length - len(positions), dtype=np.int64)])
