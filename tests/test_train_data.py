"""Batches: positions restart at each document, padding is masked by length, weights are carried."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from train_fixture import EOS, Build, Document, counting, counting_rows, write_build

from sftdata.shards import Split, open_shards
from sftdata.trainer.data import OneRowBatches, PackedBatches, PaddedBatches, PlannedBatches, ShardRows
from sftdata.trainer.loss import loss_mass, token_loss

ROWS = [[counting(0, 5), counting(3, 4)], [counting(9, 6)]]


def split_of(folder: Path, build: Build) -> Split:
    return open_shards(write_build(folder / "build", build)).splits["train"]


def test_packed_batch_restarts_positions_and_has_no_attention_mask(tmp_path: Path) -> None:
    rows = ShardRows(split_of(tmp_path, Build({"train": ROWS})))
    batch = PackedBatches(pad_token_id=EOS)([rows[0], rows[1]])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 0, 1, 2]]
    assert batch["labels"][1].tolist()[6:] == [-100] * 3
    assert batch["labels"][0, 5] == -100 and batch["rows"] == [0, 1]
    assert "attention_mask" not in batch


def test_one_row_batch_has_no_padding_and_no_target_across_rows(tmp_path: Path) -> None:
    rows = ShardRows(split_of(tmp_path, Build({"train": [[counting(0, 5, 0)], [counting(3, 4, 0)]]})))
    batch = OneRowBatches()([rows[0], rows[1]])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3]]
    assert rows[1]["labels"][0] != -100, "the data trains a first token, which must not become a target of the row before"
    assert batch["labels"][0, 5] == -100
    assert batch["rows"] == [0, 1]


def test_padded_batch_masks_by_length_though_pad_is_eos(tmp_path: Path) -> None:
    rows = ShardRows(split_of(tmp_path, Build({"train": [[counting(0, 4)], [counting(9, 6)]]}, packed=False)))
    batch = PaddedBatches(pad_token_id=EOS)([rows[0], rows[1]])
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]
    assert batch["labels"][0].tolist()[3:] == [EOS, -100, -100], "the document's own EOS stays trained"
    assert batch["input_ids"][0, 4] == EOS


def test_batches_cover_every_row_once_and_the_last_is_smaller(tmp_path: Path) -> None:
    split = split_of(tmp_path, Build({"train": counting_rows(10)}, buckets=(6, 4)))
    batches = PlannedBatches(split, micro_batch_size=4, seed=1)
    batches.epoch = 3
    found = list(batches)
    assert [len(batch) for batch in found] == [4, 4, 2] and len(batches) == 3
    assert sorted(row for batch in found for row in batch) == list(range(10))


def test_loss_weights_reach_the_loss(tmp_path: Path) -> None:
    heavy, light = Document((0, 5, 6, 1), 1, weight=3.0), Document((0, 8, 9, 1), 1, weight=0.5)
    rows = ShardRows(split_of(tmp_path, Build({"train": [[heavy, light]]}, weighted=True)))
    batch = PackedBatches(0)([rows[0]])
    logits = torch.randn(1, 8, 44, generator=torch.Generator().manual_seed(1))
    losses = torch.nn.functional.cross_entropy(logits[0, :-1], batch["labels"][0, 1:], reduction="none", ignore_index=-100)
    mass = loss_mass(batch)
    found = token_loss(logits, batch["labels"], batch["loss_weights"], mass)
    assert float(mass) == 3 * 3.0 + 3 * 0.5
    expected = (losses * torch.tensor([3.0] * 3 + [0] + [0.5] * 3)).sum() / mass
    assert torch.isclose(found, expected.float()) and not torch.isclose(found, losses.sum() / 6)


def test_loss_of_a_batch_without_targets_is_zero_and_finite() -> None:
    logits = torch.zeros(1, 3, 5, requires_grad=True)
    loss = token_loss(logits, torch.full((1, 3), -100), None, 0)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None and np.isfinite(logits.grad.numpy()).all()
