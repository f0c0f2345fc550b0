"""Trains a model on the shards of a build. Importing this package imports neither torch nor transformers.

    result = run(Path("shards/zhenhuan"), Path("models/zhenhuan"), TrainSettings(model={"model_type": "llama"}), print)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sftdata.errors import TrainingError
from sftdata.trainer.result import Sample, TrainResult
from sftdata.trainer.settings import TrainSettings

__all__ = ["Sample", "TrainResult", "TrainSettings", "generate", "run"]


def run(shards_folder: Path, out: Path, settings: TrainSettings, report: Callable[[str], None]) -> TrainResult:
    """Train a model on the shards in `shards_folder` and publish it as the folder `out`.

    `report` receives every line meant for the user. `out` is replaced only when the new model is complete. Raises RecipeError
    for settings without meaning, DamagedError for shards that do not match their checksums, LockedError while another run
    writes `out`, and TrainingError where training cannot start or was stopped.
    """
    settings.check()
    try:
        from sftdata.trainer.loop import train
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return train(shards_folder, out, settings, report)


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


def _missing(error: ModuleNotFoundError) -> TrainingError:
    return TrainingError(f"training needs the package {error.name!r}; install the extra: pip install 'sftdata[train]'")
