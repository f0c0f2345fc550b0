"""All that is known of a run before its model is made: verified shards, counts, exact steps, settings without `auto`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from sftdata.errors import DamagedError, DataError, TrainingError
from sftdata.mask_lint import findings
from sftdata.shards import MANIFEST, Shards, Split, open_shards
from sftdata.trainer.advice import advice
from sftdata.trainer.model import Precision, base_type, choose_precision, load_tokenizer
from sftdata.trainer.new_rows import vocabulary
from sftdata.trainer.plan import RunPlan, SplitFacts, plan_run, suggested_learning_rate, survey
from sftdata.trainer.processes import SINGLE, Processes
from sftdata.trainer.settings import TrainSettings
from sftdata.trainer.tracking import tracker_names

Report = Callable[[str], None]

MAX_RENAMED = 0.01
"""Share of a base's tokens that may have another name in the shards' tokenizer."""


@dataclass(frozen=True)
class Job:
    """All that is known of a run before its model is made."""

    shards: Shards
    train: Split
    validation: Split | None
    facts: SplitFacts
    plan: RunPlan
    settings: TrainSettings
    precision: Precision
    tokenizer: PreTrainedTokenizerFast
    group: Processes
    report: Report

    @property
    def window(self) -> int:
        """Positions of a model from scratch that names none."""
        return max(self.facts.longest_row, int(self.shards.manifest.get("sequence_len") or 0))

    @property
    def learning_rate(self) -> float:
        """The learning rate, which is a number by now."""
        return float(self.settings.learning_rate)


def prepare(shards_folder: Path, settings: TrainSettings, report: Report, group: Processes = SINGLE) -> Job:
    """Open and verify the shards and work out what the run will do. Raises DamagedError, DataError, TrainingError."""
    report = group.voice(report)
    if group.sharded and settings.adapter == "qlora":
        raise TrainingError("train.adapter: qlora does not train under FSDP; start without it, or take adapter: lora")
    tracker_names(settings)  # told before the shards are read, not after the model is made
    shards = open_verified(shards_folder) if group.is_main else open_shards(shards_folder)
    group.wait()
    split = shards.splits.get("train")
    if split is None:
        raise DataError(f"{shards.folder}: has no train split")
    plan = plan_run(split.num_rows, settings, group.share.world_size)
    facts = survey(split)
    check_masks(shards, facts)
    if settings.learning_rate == "auto":
        rate = suggested_learning_rate(facts, plan, settings, base_type(str(settings.base_model)))
        settings = replace(settings, learning_rate=rate)
        report(f"learning rate: {rate:.3g}, by auto")
    validation = _validation(shards, settings, report)
    said = [*announcement(facts, plan, settings, group), *mask_notes(shards, facts), *advice(shards, facts, plan, settings)]
    for line in said:
        report(line)
    tokenizer = load_tokenizer(shards.tokenizer_folder)
    return Job(shards, split, validation, facts, plan, settings, choose_precision(settings), tokenizer, group, report)


def _validation(shards: Shards, settings: TrainSettings, report: Report) -> Split | None:
    """Return the validation split, or None with a word on why there is none. Raises TrainingError where it is needed."""
    validation = shards.splits.get("validation")
    if validation is not None and survey(validation).num_trained_tokens:
        return validation
    missing = "no validation split" if validation is None else "no row fell into the validation split"
    cure = "split: {validation: 0.05} makes one" if validation is None else "a larger share makes one"
    for name in ("early_stopping_patience", "load_best_model_at_end"):
        if getattr(settings, name):
            raise TrainingError(f"train.{name}: {shards.folder}: {missing}, and nothing else tells which model is best; {cure}")
    report(f"{missing}: the curve shows the training loss alone ({cure})")
    return None


def open_verified(folder: Path) -> Shards:
    """Open a build after checking every file of it. Raises DamagedError that names what is damaged, or has no checksum."""
    shards = open_shards(folder)
    listed = {entry["path"] for entry in shards.manifest["files"]}
    needed = (f"{name}/{file}" for name, split in shards.manifest["splits"].items() for file in split["files"])
    unverified = next((path for path in needed if path not in listed), None)
    if unverified is not None:
        raise DamagedError(f"{shards.folder / unverified}: has no checksum in {MANIFEST}; build the shards again")
    damaged = list(shards.damaged_files())
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise DamagedError(f"{shards.folder / damaged[0]}{more}: does not match its checksum; build the shards again")
    return shards


def announcement(facts: SplitFacts, plan: RunPlan, settings: TrainSettings, group: Processes = SINGLE) -> list[str]:
    """Return what is said before the first step: rows, tokens, exact steps."""
    devices = f" x {group.share.world_size} processes" if group.several else ""
    full = plan.num_full_epochs
    more = f" ({full:,.2f} if the last step of each were full)" if abs(full - plan.num_epochs) > 0.005 else ""
    lines = [
        f"train: {facts.num_rows:,} rows, {facts.num_tokens:,} tokens, {facts.num_trained_tokens:,} of them trained",
        f"steps: {plan.num_steps:,} = {plan.num_epochs:,.2f} epochs of {plan.steps_per_epoch:,}{more}; "
        f"a step is {settings.micro_batch_size} rows x {settings.gradient_accumulation_steps}{devices}",
    ]
    return lines


def check_masks(shards: Shards, facts: SplitFacts) -> None:
    """Raise TrainingError for labels that cannot be meant."""
    if facts.num_trained_tokens == 0:
        raise TrainingError(f"{shards.folder}: no token of the train split is trained (all labels are -100)")
    if facts.num_foreign_labels:
        raise TrainingError(
            f"{shards.folder}: {facts.num_foreign_labels:,} labels are neither -100 nor the token in their place, as if "
            "shifted already; the model shifts them itself"
        )


def mask_notes(shards: Shards, facts: SplitFacts) -> list[str]:
    """Return what should be known of the labels before they are trained: what the build found, and what the rows show."""
    sources = {name: entry for name, entry in (shards.manifest.get("sources") or {}).items() if "mask_lint" in entry}
    found = list(findings({"sources": sources}))
    if facts.num_trained_first_tokens:
        found.append(f"the first token of {facts.num_trained_first_tokens:,} documents is trained")
    if facts.num_untrained_rows:
        found.append(f"{facts.num_untrained_rows:,} of {facts.num_rows:,} rows have no trained token and teach nothing")
    return [f"masks: {line}" for line in found]


def check_fit(job: Job, model: Any) -> None:
    """Raise TrainingError where shards and model do not fit: another vocabulary, ids beyond it, documents beyond its window."""
    if job.settings.base_model is not None:
        check_vocabulary(job, job.settings.base_model)
    rows = model.get_input_embeddings().weight.shape[0]
    if job.facts.largest_token_id >= rows:
        raise TrainingError(
            f"{job.shards.folder}: token id {job.facts.largest_token_id} is outside the model's vocabulary of {rows}; "
            "build the shards with the model's own tokenizer"
        )
    window = getattr(model.config, "max_position_embeddings", None)
    if window is not None and job.facts.longest_segment > window:
        raise TrainingError(
            f"{job.shards.folder}: a document has {job.facts.longest_segment} tokens, the model's window is {window}; "
            f"build with tokenize.sequence_len: {window}"
        )


def check_vocabulary(job: Job, base_model: str) -> None:
    """Raise TrainingError where the shards hold ids of another vocabulary than the base was trained with.

    Tokens that were added are none of its ids, and a few may have got new names (reserved ones become those of a template).
    """
    theirs = vocabulary(base_model)
    if theirs is None:
        return
    ours = {number: piece for piece, number in job.tokenizer.get_vocab().items()}
    others = sorted(number for piece, number in theirs.items() if ours.get(number) != piece)
    if len(others) > MAX_RENAMED * len(theirs):
        pieces = {number: piece for piece, number in theirs.items()}
        first = others[0]
        raise TrainingError(
            f"{job.shards.folder}: has another vocabulary than {base_model}: {len(others):,} of {len(theirs):,} ids differ "
            f"(id {first} is {ours.get(first)!r} here, {pieces[first]!r} there); build with tokenizer: {{path: {base_model}}}"
        )
