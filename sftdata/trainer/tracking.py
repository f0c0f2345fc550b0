"""Trackers: TensorBoard where it is installed, others by name."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from sftdata.errors import TrainingError
from sftdata.trainer.job import Job


def runs_folder(out: Path) -> Path:
    """Return where TensorBoard's event files of the model folder `out` lie: beside it, to be watched while the run goes on."""
    return out.with_name(f"{out.name}.runs")


def trackers(job: Job, out: Path) -> list[Any]:
    """Return transformers' callbacks for what `report_to` names. Raises TrainingError for one that is not installed."""
    names = job.settings.trackers
    if not job.group.is_main or names == ("none",):
        return []
    if names == ("auto",):
        names = ("tensorboard",) if importlib.util.find_spec("tensorboard") else ()
    found: list[Any] = []
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise TrainingError(f"train.report_to: the package {name} is not installed: pip install {name}, or report_to: none")
        found.append(_tensorboard(job, out) if name == "tensorboard" else _by_name(name))
    return found


def _tensorboard(job: Job, out: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback  # type: ignore[attr-defined]

    folder = runs_folder(out)
    job.report(f"TensorBoard: tensorboard --logdir {folder}")
    return TensorBoardCallback(SummaryWriter(log_dir=str(folder)))  # type: ignore[no-untyped-call]


def _by_name(name: str) -> Any:
    from transformers.integrations import get_reporting_integration_callbacks  # type: ignore[attr-defined]

    return get_reporting_integration_callbacks([name])[0]()  # type: ignore[no-untyped-call]
