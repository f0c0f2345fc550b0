"""Steps and order of rows: known before the start, and a function of seed and epoch alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from train_fixture import Build, Document, counting_rows, tiny_settings, write_build

from sftdata.errors import TrainingError
from sftdata.shards import open_shards
from sftdata.trainer.plan import epoch_order, plan_run, survey

BUCKETS = st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(sum).map(tuple)


@pytest.mark.parametrize(
    ("num_rows", "micro", "accumulation", "epochs", "steps"),
    [(20, 4, 1, 1, 5), (21, 4, 1, 2, 12), (20, 4, 2, 2, 6), (1, 8, 4, 3, 3), (30, 1, 1, 0.1, 3), (200, 5, 1, 1000, 40_000)],
)
def test_plan_counts_steps_of_epochs(num_rows: int, micro: int, accumulation: int, epochs: float, steps: int) -> None:
    settings = tiny_settings(micro_batch_size=micro, gradient_accumulation_steps=accumulation, num_epochs=epochs)
    assert plan_run(num_rows, settings).num_steps == steps


def test_plan_says_how_many_epochs_max_steps_are() -> None:
    plan = plan_run(3729, tiny_settings(micro_batch_size=16, max_steps=120_000))
    assert (plan.num_steps, plan.steps_per_epoch) == (120_000, 234)
    assert plan.num_epochs == pytest.approx(512.82, abs=0.01)


def test_plan_refuses_an_empty_split() -> None:
    with pytest.raises(TrainingError, match="no rows"):
        plan_run(0, tiny_settings())


@given(buckets=BUCKETS, seed=st.integers(0, 2**31), epoch=st.integers(1, 5))
def test_epoch_order_shuffles_inside_buckets_only(buckets: tuple[int, ...], seed: int, epoch: int) -> None:
    order = epoch_order(sum(buckets), buckets, seed, epoch)
    ends = np.cumsum(buckets)
    for start, end in zip(ends - np.array(buckets), ends, strict=True):
        assert sorted(order[start:end]) == list(range(start, end))
    assert np.array_equal(order, epoch_order(sum(buckets), buckets, seed, epoch))


def test_epoch_order_keeps_groups_of_similar_length_together() -> None:
    for epoch in (1, 2):
        order = epoch_order(42, (20, 22), 7, epoch, group_rows=4)
        groups = [order[:20].reshape(-1, 4), order[20:40].reshape(-1, 4)]
        assert all((np.diff(group) == 1).all() and (group[:, 0] % 4 == 0).all() for group in groups)
        assert sorted(groups[0][:, 0].tolist()) == [0, 4, 8, 12, 16] != groups[0][:, 0].tolist()
        assert order[40:].tolist() == [40, 41], "the short group stays at the end of its bucket"


def test_epoch_order_starts_with_the_files_and_differs_by_epoch_and_seed() -> None:
    first, second, third = (epoch_order(100, (60, 40), 42, epoch).tolist() for epoch in range(3))
    assert first == list(range(100))
    assert first != second != third
    assert epoch_order(100, (60, 40), 43, 1).tolist() != second


def test_survey_counts_targets_not_labels(tmp_path: Path) -> None:
    rows = [[Document((0, 5, 6, 1), 2), Document((0, 7, 43), 0)], *counting_rows(3)]
    split = open_shards(write_build(tmp_path / "build", Build({"train": rows}))).splits["train"]
    facts = survey(split)
    documents = [document for row in rows for document in row]
    targets = sum(label != -100 for row in rows for label in [x for document in row for x in document.labels][1:])
    assert facts.num_tokens == sum(len(document.ids) for document in documents)
    assert facts.num_trained_tokens == targets
    assert (facts.largest_token_id, facts.num_trained_first_tokens) == (43, 1)
    assert facts.longest_segment == max(len(document.ids) for document in documents)
