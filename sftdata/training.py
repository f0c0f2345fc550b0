"""Train on the shards of a build: the settings come from the recipe that was built, another recipe, or overrides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sftdata import strict_yaml
from sftdata.errors import RecipeError
from sftdata.recipe_loader import apply_override, load_recipe, train_settings
from sftdata.recipe_places import Places
from sftdata.shards import Shards, open_shards
from sftdata.trainer import TrainPlan, TrainResult, plan_training, run
from sftdata.trainer.settings import MODELS, TrainSettings


def train(
    shards: str | Path,
    *,
    out: str | Path | None = None,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    allow_code: bool = False,
    resume: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> TrainResult:
    """Train a model on the shards of a build and publish it as a folder, `models/<name>` by default.

    The settings are the `train:` section of the recipe that was built, or of `recipe`; `overrides` are `key=value` texts inside
    that section; `allow_code` lets `recipe` name steps from outside. `resume` goes on from the newest whole checkpoint of a run
    that was stopped. `report` receives every line meant for the user.
    Raises RecipeError, DataError, DamagedError, TrainingError.
    """
    opened = open_shards(shards)
    settings = _settings(opened, recipe, overrides, allow_code)
    return run(opened.folder, Path(out or MODELS / opened.manifest["name"]), settings, report, resume=resume)


def plan(
    shards: str | Path, *, recipe: str | Path | None = None, overrides: Sequence[str] = (), allow_code: bool = False
) -> TrainPlan:
    """Return what `train` would do and cost with the same arguments. Raises what it raises before it starts."""
    opened = open_shards(shards)
    return plan_training(opened.folder, _settings(opened, recipe, overrides, allow_code))


def _settings(opened: Shards, recipe: str | Path | None, overrides: Sequence[str], allow_code: bool) -> TrainSettings:
    section, seed = _section(opened, recipe, allow_code)
    value = {"train": section}
    places = Places(str(recipe or opened.folder / "recipe.yaml"), {})
    for override in overrides:
        apply_override(value, f"train.{override}", Path(), places)
    return train_settings(value["train"], seed, places)


def _section(shards: Shards, recipe: str | Path | None, allow_code: bool) -> tuple[dict[str, Any], int]:
    """Return the `train:` section and the seed of a recipe, or of the one that was built."""
    if recipe is not None:
        loaded = load_recipe(recipe, allow_code=allow_code)
        return dict(loaded.recipe.train), loaded.recipe.seed
    built = strict_yaml.load(shards.folder / "recipe.yaml").value
    if not isinstance(built, dict):
        raise RecipeError(f"{shards.folder / 'recipe.yaml'}: is no recipe")
    return dict(built.get("train") or {}), int(built["seed"])
