"""What a training run will do, known before it starts: rows, tokens, steps, and which rows each batch holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sftdata.errors import DamagedError, TrainingError
from sftdata.schemas import IGNORE_INDEX
from sftdata.shards import Split
from sftdata.shuffling import keyed_hash
from sftdata.trainer.settings import TrainSettings

Int64 = npt.NDArray[np.int64]

NUM_EVALUATIONS = 10
NUM_LOG_LINES = 50
"""How often a run is validated and logged where the recipe does not say."""


@dataclass(frozen=True)
class SplitFacts:
    """Counts over all rows of a split."""

    num_rows: int
    num_tokens: int
    num_trained_tokens: int
    """Tokens that are a target: the first of a row never is."""
    longest_row: int
    longest_segment: int
    largest_token_id: int
    num_trained_first_tokens: int
    """Segments whose first token is trained: only data made in another program's compatible mode has any."""
    num_untrained_rows: int = 0
    """Rows without a target."""
    num_foreign_labels: int = 0
    """Labels that are neither −100 nor the token in their place."""
    mean_context: float = 0.0
    """Length of the document that a token is in, averaged over tokens: what attention costs."""


@dataclass(frozen=True)
class RunPlan:
    """The number of steps of a run and the rhythm of its log."""

    num_rows: int
    micro_batch_size: int
    rows_per_step: int
    """Rows of one update, over all devices."""
    steps_per_epoch: int
    num_steps: int
    eval_steps: int
    logging_steps: int
    warmup_steps: int

    @property
    def num_epochs(self) -> float:
        """Passes over the training rows."""
        return self.num_steps / self.steps_per_epoch

    @property
    def num_full_epochs(self) -> float:
        """Passes if every step were full; the last of an epoch is smaller where the rows do not divide evenly."""
        return self.num_steps * self.rows_per_step / self.num_rows


def survey(split: Split) -> SplitFacts:
    """Count the rows and tokens of a split, one record batch at a time."""
    num_tokens = num_trained = longest_row = longest_segment = first_trained = squares = untrained_rows = foreign = 0
    largest_id = -1
    for batch in split.flat_batches():
        offsets, ids = batch["input_ids"]
        if len(offsets) < 2 or offsets[-1] == offsets[0]:
            continue
        labels = batch["labels"][1][offsets[0] : offsets[-1]]
        segments = _segment_lengths(batch, offsets)
        starts = np.cumsum(segments) - segments
        trained = labels != IGNORE_INDEX
        row_starts = (offsets[:-1] - offsets[0])[np.diff(offsets) > 0]
        num_tokens += len(labels)
        targets = trained.copy()
        targets[row_starts] = False
        num_trained += int(targets.sum())
        untrained_rows += int((~np.logical_or.reduceat(targets, row_starts)).sum())
        foreign += int((trained & (labels != ids[offsets[0] : offsets[-1]])).sum())
        longest_row = max(longest_row, int(np.diff(offsets).max()))
        longest_segment = max(longest_segment, int(segments.max()))
        largest_id = max(largest_id, int(ids[offsets[0] : offsets[-1]].max()))
        first_trained += int(trained[starts].sum())
        squares += int((segments**2).sum())
    return SplitFacts(
        split.num_rows, num_tokens, num_trained, longest_row, longest_segment, largest_id, first_trained,
        untrained_rows, foreign, squares / max(num_tokens, 1),
    )


def row_counts(split: Split) -> tuple[Int64, Int64]:
    """Return the tokens and the trained tokens of every row: (num_rows,) each. A row's first token is never a target."""
    trained: list[Int64] = []
    for batch in split.flat_batches():
        offsets, labels = batch["labels"]
        so_far = np.concatenate([[0], np.cumsum(labels != IGNORE_INDEX)])
        after_first = np.minimum(offsets[:-1] + 1, offsets[1:])
        trained.append(so_far[offsets[1:]] - so_far[after_first])
    return split.lengths(), np.concatenate(trained) if trained else np.zeros(0, dtype=np.int64)


def _segment_lengths(batch: dict[str, tuple[np.ndarray, np.ndarray]], offsets: np.ndarray) -> Int64:
    """Return the length of every non-empty segment of a record batch; without `seq_lengths` a row is one segment."""
    if "seq_lengths" in batch:
        segment_offsets, values = batch["seq_lengths"]
        lengths = values[segment_offsets[0] : segment_offsets[-1]].astype(np.int64)
    else:
        lengths = np.diff(offsets).astype(np.int64)
    lengths = lengths[lengths > 0]
    if lengths.sum() != offsets[-1] - offsets[0]:
        raise DamagedError("seq_lengths do not add up to the tokens of their rows; build the shards again")
    return lengths


def plan_run(num_rows: int, settings: TrainSettings, world_size: int = 1) -> RunPlan:
    """Work out the exact number of steps on `world_size` devices. The last step of an epoch takes the rows that are left."""
    if num_rows == 0:
        raise TrainingError("the train split has no rows; nothing can be trained (see `sftdata report` for what was dropped)")
    rows_per_step = settings.rows_per_step * world_size
    steps_per_epoch = math.ceil(num_rows / rows_per_step)
    if settings.max_steps is not None:
        num_steps = settings.max_steps
    else:
        # Rounded first: 0.1 epochs of 30 steps are 3 steps, though the product is a hair above 3.
        epochs = 1.0 if settings.num_epochs is None else settings.num_epochs
        num_steps = math.ceil(round(epochs * steps_per_epoch, 6))
    return RunPlan(
        num_rows=num_rows,
        micro_batch_size=settings.micro_batch_size,
        rows_per_step=rows_per_step,
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
        eval_steps=settings.eval_steps or math.ceil(num_steps / NUM_EVALUATIONS),
        logging_steps=settings.logging_steps or math.ceil(num_steps / NUM_LOG_LINES),
        # Rounded down: the first update of a warm-up has a learning rate of 0, which a run of one step cannot afford.
        warmup_steps=int(settings.warmup_ratio * num_steps) if settings.warmup_steps is None else settings.warmup_steps,
    )


def epoch_order(num_rows: int, bucket_rows: tuple[int, ...], seed: int, epoch: int, *, group_rows: int = 1) -> Int64:
    """Return the order in which epoch `epoch` (from 0) reads the rows: (num_rows,).

    Epoch 0 is the order of the files. A later one is shuffled by (seed, epoch) inside each bucket, never across: buckets keep
    the mix of sources even over the whole epoch. `group_rows` consecutive rows of a bucket, which are of similar length, stay
    together, and the short group at its end stays there.
    """
    rows = np.arange(num_rows, dtype=np.int64)
    if epoch == 0:
        return rows
    if sum(bucket_rows) != num_rows:
        raise DamagedError(f"the manifest counts {sum(bucket_rows)} rows in buckets, the split has {num_rows}")
    buckets = np.repeat(np.arange(len(bucket_rows)), bucket_rows)
    ends = np.cumsum(bucket_rows, dtype=np.int64)[buckets]
    begins = ends - np.array(bucket_rows, dtype=np.int64)[buckets]
    group = rows - (rows - begins) % group_rows
    keys = keyed_hash(group.astype(np.uint64), seed=seed, purpose=f"epoch {epoch}")
    return np.lexsort((keys, group + group_rows > ends, buckets)).astype(np.int64)


BASE_RATES = {"mistral": 5e-5, "mixtral": 5e-5}
DEFAULT_BASE_RATE = 3e-4
"""Rates with which models were pretrained: Mistral's, and Llama 2's for all others."""


def scaled_learning_rate(base_rate: float, trained_tokens_per_step: float, pretrain_batch_tokens: float) -> float:
    """Return base rate · √(trained tokens a step / tokens a step of pretraining).

    Pretraining at 5e-5 with 4,000,000 tokens a step and fine-tuning 2,000,000 tokens in 350 steps give 1.89e-6.
    """
    return base_rate * math.sqrt(trained_tokens_per_step / pretrain_batch_tokens)


def suggested_learning_rate(facts: SplitFacts, plan: RunPlan, settings: TrainSettings, model_type: str) -> float:
    """Return the learning rate that `auto` stands for."""
    base = settings.base_learning_rate or BASE_RATES.get(model_type, DEFAULT_BASE_RATE)
    # All trained tokens of an epoch over its steps: the last, smaller step counts as one.
    return scaled_learning_rate(base, facts.num_trained_tokens / plan.steps_per_epoch, settings.pretrain_batch_tokens)
