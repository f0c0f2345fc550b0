"""Trackers: TensorBoard where it is installed, others by name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sftdata.errors import TrainingError
from sftdata.trainer.settings import TrainSettings

Report = Callable[[str], None]


def runs_folder(out: Path) -> Path:
    """Return where TensorBoard's event files of the model folder `out` lie: beside it, to be watched while the run goes on."""
    return out.with_name(f"{out.name}.runs")


def tracker_names(settings: TrainSettings) -> tuple[str, ...]:
    """Return the trackers that `report_to` stands for. Raises TrainingError for one that is not installed."""
    names = settings.trackers
    if names == ("none",):
        return ()
    if names == ("auto",):
        return ("tensorboard",) if importlib.util.find_spec("tensorboard") else ()
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise TrainingError(f"train.report_to: the package {name} is not installed: pip install {name}, or report_to: none")
    return names


def trackers(settings: TrainSettings, out: Path, report: Report) -> list[Any]:
    """Return transformers' callbacks for what `report_to` names. Raises TrainingError for one that is not installed."""
    return [_tensorboard(out, report) if name == "tensorboard" else _by_name(name) for name in tracker_names(settings)]


def _tensorboard(out: Path, report: Report) -> Any:
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback  # type: ignore[attr-defined]

    folder = runs_folder(out)
    report(f"TensorBoard: tensorboard --logdir {folder}")
    return TensorBoardCallback(SummaryWriter(log_dir=str(folder)))  # type: ignore[no-untyped-call]


def _by_name(name: str) -> Any:
    from transformers.integrations import get_reporting_integration_callbacks  # type: ignore[attr-defined]

    return get_reporting_integration_callbacks([name])[0]()  # type: ignore[no-untyped-call]
