"""Checkpoints: written whole or not at all, verified before they are used, and refused where they belong to another run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftdata import storage
from sftdata.errors import DamagedError, TrainingError
from sftdata.sealing import read_sealed, sealed

RECORD = "checkpoint.json"
STATE = "trainer.pt"
"""Optimiser, schedule and loss scaler; read with `weights_only`, and only after its checksum was found right."""

FREE_SETTINGS = frozenset(
    {
        "micro_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "logging_steps", "save_steps",
        "save_total_limit", "report_to", "sample_prompts", "sample_steps", "max_new_tokens",
    }
)
"""What may differ when a run is resumed: nothing of it changes a batch or an update. Rows a step are compared by themselves."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every byte was verified."""

    folder: Path
    record: dict[str, Any]

    @property
    def step(self) -> int:
        """Updates that were made when it was written."""
        return int(self.record["step"])

    @property
    def state(self) -> Path:
        """The file of the optimiser state. Raises TrainingError where it is missing: without, it would be another run."""
        path = self.folder / STATE
        if STATE not in {entry["path"] for entry in self.record["files"]}:
            raise TrainingError(
                f"{self.folder}: holds no optimiser state ({STATE}), so the run cannot go on exactly; start without --resume"
            )
        return path


def folder_of(out: Path) -> Path:
    """Return where a run that writes `out` keeps its checkpoints."""
    return out.with_name(f"{out.name}.checkpoints")


def write(folder: Path, name: str, record: Mapping[str, Any], fill: Callable[[Path], None]) -> Path:
    """Write the checkpoint `name` in `folder`: `fill` puts files into a temporary folder, which appears whole, by rename."""
    storage.make_folder(folder)
    for leftover in folder.glob(".*.tmp-*"):
        storage.remove_tree(leftover)
    target = folder / name
    temporary = storage.temporary_name(target)
    storage.make_folder(temporary)
    fill(temporary)
    files = [
        {"path": path.relative_to(temporary).as_posix(), "bytes": path.stat().st_size, "xxh3": storage.file_digest(path)}
        for path in sorted(temporary.rglob("*"))
        if path.is_file()
    ]
    storage.write_bytes(temporary / RECORD, sealed({**record, "files": files}))
    storage.publish(temporary, target)
    return target


def step_name(step: int) -> str:
    """Return the folder name of the checkpoint after `step` updates."""
    return f"step-{step:08d}"


def keep_newest(folder: Path, limit: int) -> None:
    """Remove all but the newest `limit` checkpoints."""
    for old in sorted(folder.glob("step-*"))[:-limit]:
        storage.remove_tree(old)


def verified(folder: Path) -> Checkpoint:
    """Open a checkpoint after checking every file of it. Raises DamagedError."""
    record = read_sealed(folder / RECORD)
    for entry in record["files"]:
        path = folder / entry["path"]
        if not path.is_file() or path.stat().st_size != entry["bytes"] or storage.file_digest(path) != entry["xxh3"]:
            raise DamagedError(f"{path}: does not match its checksum")
    return Checkpoint(folder, record)


def newest(folder: Path, report: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest checkpoint that is whole; damaged ones after it are named. None where there is none at all.

    Raises DamagedError where there are checkpoints and every one is damaged.
    """
    for leftover in sorted(folder.glob(".step-*.old")):
        storage.recover(folder / leftover.name.removeprefix(".").removesuffix(".old"))
    candidates = sorted(folder.glob("step-*"), reverse=True)
    for candidate in candidates:
        try:
            return verified(candidate)
        except DamagedError as error:
            report(f"passed over: {error}")
    if candidates:
        raise DamagedError(f"{folder}: none of the {len(candidates)} checkpoints is whole; start again without --resume")
    return None


def identity(shards_digest: str, settings: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be the same when a run is resumed: the data, the settings that matter, and the plan of its steps."""
    # Every checkpoint validates, so that saving matters where validation decides when to stop or what is kept.
    validates = settings.get("early_stopping_patience") or settings.get("load_best_model_at_end")
    free = FREE_SETTINGS - {"save_steps"} if validates else FREE_SETTINGS
    kept = {name: value for name, value in settings.items() if name not in free}
    return {"shards": shards_digest, "settings": kept, "plan": dict(plan)}


def check_same_run(checkpoint: Checkpoint, now: Mapping[str, Any]) -> None:
    """Raise TrainingError that names what changed since the checkpoint was written."""
    before = checkpoint.record["identity"]
    changes = list(_changes(before, now))
    if changes:
        more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
        raise TrainingError(
            f"{checkpoint.folder}: cannot be resumed: {changes[0]}{more}; undo the change, or start without --resume"
        )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if before["shards"] != now["shards"]:
        yield f"the data changed: the shards were {before['shards'][:12]}, they are {now['shards'][:12]}"
    for section, prefix in (("settings", "train."), ("plan", "")):
        for name in sorted({*before[section], *now[section]}):
            was, is_now = before[section].get(name), now[section].get(name)
            if was != is_now:
                yield f"{prefix}{name.rstrip('_')} was {was!r} and is {is_now!r}"
