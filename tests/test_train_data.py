"""Batches: positions restart at each document, padding is masked by length, weights are carried."""

from __future__ import annotations

import json
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from build_support import needs_shared
from hypothesis import given
from hypothesis import strategies as st
from train_fixture import EOS, Build, Document, counting, counting_rows, tiny_settings, write_build

from sftdata.shards import Split, open_shards
from sftdata.trainer.data import (
    ALONE,
    OneRowBatches,
    PackedBatches,
    PaddedBatches,
    PlannedUpdates,
    Share,
    row_of,
    update_loader,
)
from sftdata.trainer.loss import loss_mass, token_loss
from sftdata.trainer.plan import plan_run

ROWS = [[counting(0, 5), counting(3, 4)], [counting(9, 6)]]


def split_of(folder: Path, build: Build) -> Split:
    return open_shards(write_build(folder / "build", build)).splits["train"]


def test_packed_batch_restarts_positions_and_has_no_attention_mask(tmp_path: Path) -> None:
    split = split_of(tmp_path, Build({"train": ROWS}))
    batch = PackedBatches(pad_token_id=EOS)([row_of(split, 0), row_of(split, 1)])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 0, 1, 2]]
    assert batch["labels"][1].tolist()[6:] == [-100] * 3
    assert batch["labels"][0, 5] == -100 and batch["rows"] == [0, 1]
    assert "attention_mask" not in batch


def test_one_row_batch_has_no_padding_and_no_target_across_rows(tmp_path: Path) -> None:
    split = split_of(tmp_path, Build({"train": [[counting(0, 5, 0)], [counting(3, 4, 0)]]}))
    batch = OneRowBatches()([row_of(split, 0), row_of(split, 1)])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3]]
    assert split.row(1)["labels"][0] != -100, "the data trains a first token, which must not become a target of the row before"
    assert batch["labels"][0, 5] == -100
    assert batch["rows"] == [0, 1]


def test_padded_batch_masks_by_length_though_pad_is_eos(tmp_path: Path) -> None:
    split = split_of(tmp_path, Build({"train": [[counting(0, 4)], [counting(9, 6)]]}, packed=False))
    batch = PaddedBatches(pad_token_id=EOS)([row_of(split, 0), row_of(split, 1)])
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0], [1] * 6]
    assert batch["labels"][0].tolist()[3:] == [EOS, -100, -100], "the document's own EOS stays trained"
    assert batch["input_ids"][0, 4] == EOS


def updates_of(split: Split, share: Share = ALONE, **changes: Any) -> PlannedUpdates:
    settings = tiny_settings(**{"micro_batch_size": 2, "gradient_accumulation_steps": 2, "num_epochs": 3, **changes})
    plan = plan_run(split.num_rows, settings, share.world_size)
    collator = PackedBatches(0) if split.packed else PaddedBatches(0)
    return PlannedUpdates(split, plan, 1, collator, share)


def test_updates_cover_every_row_once_an_epoch_and_the_last_is_smaller(tmp_path: Path) -> None:
    updates = updates_of(split_of(tmp_path, Build({"train": counting_rows(10)}, buckets=(6, 4))))
    rows = [updates[step]["rows"] for step in range(len(updates))]
    assert [len(found) for found in rows] == [4, 4, 2] * 3
    for epoch in range(3):
        assert sorted(row for found in rows[3 * epoch : 3 * epoch + 3] for row in found) == list(range(10))


def test_an_update_is_the_same_wherever_the_run_starts(tmp_path: Path) -> None:
    split = split_of(tmp_path, Build({"train": counting_rows(10)}))
    whole = list(update_loader(updates_of(split), 0))
    assert len(whole) == 9
    for first in range(9):
        rest = list(update_loader(updates_of(split), first))
        assert [update["step"] for update in rest] == list(range(first, 9))
        for update, expected in zip(rest, whole[first:], strict=True):
            assert update["rows"] == expected["rows"]
            for batch, same in zip(update["batches"], expected["batches"], strict=True):
                assert torch.equal(batch["input_ids"], same["input_ids"]) and torch.equal(batch["labels"], same["labels"])


def test_skipped_updates_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = split_of(tmp_path, Build({"train": counting_rows(10)}))
    read: list[int] = []
    row = Split.row

    def counted(self: Split, index: int) -> dict[str, np.ndarray]:
        read.append(index)
        return row(self, index)

    monkeypatch.setattr(Split, "row", counted)
    (last,) = update_loader(updates_of(split), 8)
    assert last["rows"] and sorted(read) == sorted(last["rows"])


@given(num_rows=st.integers(1, 30), micro=st.integers(1, 5), world_size=st.integers(1, 5), packed=st.booleans())
def test_processes_share_an_update_without_loss_or_repeat(num_rows: int, micro: int, world_size: int, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = [[counting(row, 4 + row % 5)] for row in range(num_rows)]
        split = split_of(Path(folder), Build({"train": rows}, packed=packed))
        shares = [updates_of(split, Share(rank, world_size), micro_batch_size=micro)[0] for rank in range(world_size)]
    assert all(share["rows"] == shares[0]["rows"] for share in shares)
    assert len({len(share["batches"]) for share in shares}) == 1, "a process that makes fewer exchanges than others hangs them"
    trained = [batch for share in shares for batch in share["batches"] if bool((batch["labels"] != -100).any())]
    assert sorted(row for batch in trained for row in batch["rows"]) == sorted(shares[0]["rows"])
    assert max(len(batch["rows"]) for batch in trained) <= micro


def test_padded_rows_of_an_update_are_grouped_by_length(tmp_path: Path) -> None:
    lengths = [4, 12, 5, 11]
    split = split_of(tmp_path, Build({"train": [[counting(0, length)] for length in lengths]}, packed=False))
    (update,) = (updates_of(split, num_epochs=1)[step] for step in range(1))
    assert update["rows"] == [0, 1, 2, 3]
    assert [batch["input_ids"].shape[1] for batch in update["batches"]] == [5, 12]


def test_loss_weights_reach_the_loss(tmp_path: Path) -> None:
    heavy, light = Document((0, 5, 6, 1), 1, weight=3.0), Document((0, 8, 9, 1), 1, weight=0.5)
    split = split_of(tmp_path, Build({"train": [[heavy, light]]}, weighted=True))
    batch = PackedBatches(0)([row_of(split, 0)])
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


def test_padded_batches_are_those_of_the_article_but_for_real_tokens_that_look_like_padding() -> None:
    """The article's collator masks every label whose id is that of the pad token; ours masks what is padding."""
    lines = needs_shared("parity", "tinystories", "collator_expected.jsonl").read_text("utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    assert {(case["pad_token"], case["padding_side"]) for case in cases} == set(product(("<unk>", "</s>"), ("left", "right")))
    kept = 0
    for case in cases:
        pad = {"<unk>": 0, "</s>": 2}[case["pad_token"]]
        rows = [{"input_ids": np.array(ids), "labels": np.array(ids), "row": row} for row, ids in enumerate(case["features"])]
        batch = PaddedBatches(pad)(rows)
        expected = {name: torch.tensor(case[name]) for name in ("input_ids", "attention_mask", "labels")}
        if case["padding_side"] == "left":  # the same rows, moved to where ours begin
            shifts = [int((row == 0).sum()) for row in expected["attention_mask"]]
            moved = {name: [row.roll(-by) for row, by in zip(value, shifts, strict=True)] for name, value in expected.items()}
            expected = {name: torch.stack(moved[name]) for name in expected}
        assert torch.equal(batch["input_ids"], expected["input_ids"])
        assert torch.equal(batch["attention_mask"], expected["attention_mask"])
        looks_like_padding = (batch["input_ids"] == pad) & (batch["attention_mask"] == 1)
        assert torch.equal(batch["labels"].masked_fill(looks_like_padding, -100), expected["labels"])
        kept += int((batch["labels"][looks_like_padding] == pad).sum())
    assert kept == 2 * (1 + 4), "the unknown token is trained, and so are the ends of stories"
