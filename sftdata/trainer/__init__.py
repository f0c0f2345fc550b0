"""Trains a model on the shards of a build. Importing this package imports neither torch nor transformers.

    result = run(Path("shards/zhenhuan"), Path("models/zhenhuan"), TrainSettings(model={"model_type": "llama"}), print)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sftdata.errors import TrainingError
from sftdata.trainer.result import Sample, TrainPlan, TrainResult
from sftdata.trainer.settings import TrainSettings

__all__ = ["Sample", "TrainPlan", "TrainResult", "TrainSettings", "generate", "merge_lora", "plan_training", "run"]


def run(
    shards_folder: Path, out: Path, settings: TrainSettings, report: Callable[[str], None], *, resume: bool = False
) -> TrainResult:
    """Train a model on the shards in `shards_folder` and publish it as the folder `out`.

    `report` receives every line meant for the user. `out` is replaced only when the new model is complete. `resume` goes on
    from the newest whole checkpoint beside `out`. Raises RecipeError for settings without meaning, DamagedError for shards that
    do not match their checksums, LockedError while another run writes `out`, and TrainingError where training cannot start or
    go on, or was stopped.
    """
    settings = settings.resolved()
    settings.check()
    try:
        from sftdata.trainer.loop import train
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return train(shards_folder, out, settings, report, resume=resume)


def generate(
    model_folder: Path | str,
    prompt: str,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.8,
    top_k: int = 40,
    top_p: float = 0.95,
    seed: int = 42,
    chat: bool | None = None,
) -> str:
    """Return the text with which the model in `model_folder` continues or answers `prompt`.

    `chat` None uses the tokenizer's chat template where it has one. Temperature 0 takes the likeliest token each time. The
    defaults are those of the TinyStories article. Raises TrainingError for a folder that holds no model.
    """
    try:
        from sftdata.trainer.sampling import Sampling, generate_from_folder
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    return generate_from_folder(Path(model_folder), prompt, sampling, chat)


def plan_training(shards_folder: Path, settings: TrainSettings) -> TrainPlan:
    """Return what training on the shards will do and cost, without training: steps, tokens, memory, time, learning rate.

    Raises what `run` raises before it starts.
    """
    settings = settings.resolved()
    settings.check()
    try:
        from sftdata.trainer.estimate import plan as work_out
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return work_out(shards_folder, settings)


def merge_lora(adapter: Path | str, out: Path | str) -> Path:
    """Merge the LoRA adapter in a folder into its base and publish the whole model as `out`.

    Raises TrainingError for a folder without an adapter or a base that does not fit it.
    """
    try:
        from sftdata.trainer.sampling import merge_lora as merge
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return merge(Path(adapter), Path(os.path.abspath(out)))


def _missing(error: ModuleNotFoundError) -> TrainingError:
    return TrainingError(f"training needs the package {error.name!r}; install the extra: pip install 'sftdata[train]'")
