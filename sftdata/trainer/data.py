"""Rows of shards as batches of tensors. Nothing is tokenized, and nothing but the plan decides what a batch holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from sftdata.schemas import IGNORE_INDEX
from sftdata.shards import Split
from sftdata.trainer.plan import epoch_order

Row = dict[str, Any]
"""One array a column, and the row's number under `row`."""
Batch = dict[str, Any]
"""Tensors by the model's argument names, and under `rows` a list of row numbers."""
Collator = Callable[[Sequence[Row]], Batch]


class ShardRows(Dataset[Row]):
    """The rows of a split by number: views into the memory map."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.split.num_rows

    def __getitem__(self, index: int) -> Row:
        """Return row `index`."""
        return {**self.split.row(index), "row": index}


class PlannedBatches(Sampler[list[int]]):
    """Micro-batches cut from the epoch's order; the batch is a function of (shards, seed, epoch, number) alone."""

    def __init__(self, split: Split, micro_batch_size: int, seed: int) -> None:
        self.split = split
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of micro-batches of an epoch; the last one may be smaller."""
        return -(-self.split.num_rows // self.micro_batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the row numbers of each micro-batch."""
        split = self.split
        order = epoch_order(split.num_rows, split.bucket_rows, self.seed, self.epoch, group_rows=split.group_rows).tolist()
        for start in range(0, len(order), self.micro_batch_size):
            yield order[start : start + self.micro_batch_size]


class PlannedLoader(DataLoader[Row]):
    """A loader that the training loop tells the epoch before it starts one."""

    def __init__(self, split: Split, batches: PlannedBatches, collator: Collator) -> None:
        super().__init__(ShardRows(split), batch_sampler=batches, collate_fn=collator)
        self.batches = batches

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration read epoch `epoch`."""
        self.batches.epoch = epoch


def choose_collator(split: Split, attn_implementation: str, pad_token_id: int) -> Collator:
    """Return what turns rows of this split into batches for this attention backend."""
    if not split.packed:
        return PaddedBatches(pad_token_id)
    return OneRowBatches() if attn_implementation.startswith("flash") else PackedBatches(pad_token_id)


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
        """Return input_ids, position_ids, labels (and loss_weights): (1, all tokens) each."""
        positions = np.concatenate([_positions(row["seq_lengths"]) for row in rows])
        joined: Row = {"input_ids": np.concatenate([row["input_ids"] for row in rows]), "row": 0}
        # A row's first label would otherwise become a target of the row before it.
        joined["labels"] = np.concatenate([_without_first(row["labels"]) for row in rows])
        if "loss_weights" in rows[0]:
            joined["loss_weights"] = np.concatenate([row["loss_weights"] for row in rows])
        batch = _stacked([joined], len(positions), 0)
        return {**batch, "rows": [row["row"] for row in rows], "position_ids": torch.from_numpy(positions[None])}


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
